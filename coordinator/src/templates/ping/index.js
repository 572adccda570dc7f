// Every instance measures how long the next one takes to answer.
'use strict'
const net = require('node:net')
const { once } = require('node:events')
const { run, shape, exchange, addressOf, record, milliseconds } = require('./lib')

run({ ping })

async function ping (runenv, client) {
  const params = runenv.testInstanceParams
  const latency = milliseconds(params.latency)
  await shape(runenv, client, { latency: latency * 1e6 })

  const server = net.createServer(socket => {
    // A guest that goes is no error.
    socket.setNoDelay().on('error', () => {}).pipe(socket)
  })
  server.listen(0, addressOf(runenv))
  await once(server, 'listening')
  const { address, port } = server.address()
  const { peers, index } = await exchange(runenv, client, 'addresses', { host: address, port })
  const next = peers[(index + 1) % peers.length]

  const socket = net.connect(next).setNoDelay()
  await once(socket, 'connect')
  let fastest = Infinity
  for (let round = 0; round < Number(params.rounds); round++) {
    const begun = process.hrtime.bigint()
    socket.write('ping')
    await once(socket, 'data')
    const took = Number(process.hrtime.bigint() - begun) / 1e9
    fastest = Math.min(fastest, took)
    record(runenv, 'rtt_s', took, 's')
  }
  const least = 2 * latency / 1000
  const most = least + milliseconds(params.slack) / 1000
  // Everybody answers until everybody has measured.
  await client.signalAndWait('measured', runenv.testInstanceCount)
  socket.destroy()
  server.close()
  if (fastest < least) throw new Error(`${fastest} s is less than twice the latency`)
  if (fastest > most) throw new Error(`${fastest} s is more than ${most} s`)
}
