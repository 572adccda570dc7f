// Clients send requests at a steady rate, whether or not answers come, and measure each from when it was due.
'use strict'
const net = require('node:net')
const { once } = require('node:events')
const { run, exchange, addressOf, record, milliseconds, bytes, sleep } = require('./lib')

run({ load })

async function load (runenv, client) {
  const server = net.createServer(socket => {
    // A guest that goes is no error.
    socket.setNoDelay().on('error', () => {}).pipe(socket)
  })
  server.listen(0, addressOf(runenv))
  await once(server, 'listening')
  const { address, port } = server.address()
  const { peers, index } = await exchange(runenv, client, 'addresses', { host: address, port })
  const servers = peers.filter(peer => peer.group === 'servers')
  if (servers.length === 0) throw new Error('there is no group `servers`')
  let slowest = 0
  if (runenv.testGroupId !== 'servers') {
    slowest = await send(runenv, servers[index % servers.length])
  }
  await client.signalAndWait('sent', runenv.testInstanceCount)
  server.close()
  const limit = milliseconds(runenv.testInstanceParams.slowest) / 1000
  if (slowest > limit) throw new Error(`the slowest answer took ${slowest} s`)
}

async function send (runenv, server) {
  const params = runenv.testInstanceParams
  const gap = 1000 / Number(params.rate)
  const count = Math.floor(milliseconds(params.run_for) / gap)
  const size = bytes(params.size)
  const socket = net.connect(server).setNoDelay()
  await once(socket, 'connect')
  const begin = performance.now()
  const answered = new Promise((resolve, reject) => {
    let received = 0
    let answers = 0
    let slowest = 0
    socket.on('error', reject).on('data', data => {
      received += data.length
      // Waiting for a request's turn counts, so that a server that is behind is not measured less often.
      for (; answers < Math.floor(received / size); answers++) {
        const took = (performance.now() - begin - answers * gap) / 1000
        record(runenv, 'latency_s', took, 's')
        slowest = Math.max(slowest, took)
      }
      if (answers === count) resolve(slowest)
    })
  })
  for (let number = 0; number < count; number++) {
    await sleep(begin + number * gap - performance.now())
    socket.write(Buffer.alloc(size, 7))
  }
  const slowest = await answered
  record(runenv, 'throughput', 1000 * count / (performance.now() - begin), '1/s')
  socket.destroy()
  return slowest
}
