'use strict'

const net = require('net')
const { once } = require('events')
const { network: { DENY_ALL } } = require('@testground/sdk')

const PORT = 1234
const PINGS = 3
const NANOSECONDS = 1e6

/** Two instances shape their links, pick new addresses and measure the round trip over TCP. */
module.exports = async function pingPong ({ runenv, client, net: network }) {
  const milliseconds = name => Number(runenv.testInstanceParams[name])
  const all = runenv.testInstanceCount
  const config = {
    network: 'default',
    enable: true,
    default: { latency: milliseconds('latency_ms') * NANOSECONDS, bandwidth: 1 << 20 },
    callbackState: 'network-configured',
    routingPolicy: DENY_ALL
  }
  await network.configureNetwork(config)

  const seq = await client.signalAndWait('ip-allocation', all)
  const [first, second] = runenv.testSubnet[0].octets
  const addressOf = seq => `${first}.${second}.${(seq >> 8) + 1}.${seq & 255}`
  await network.configureNetwork({ ...config, IPv4: `${addressOf(seq)}/16`, callbackState: 'ip-changed' })
  const own = network.getDataNetworkIP()
  if (own !== addressOf(seq)) throw new Error(`the address is ${own}, not ${addressOf(seq)}`)

  const socket = await connect(client, all, seq, addressOf)
  const measure = async (step, latency) => {
    const trips = []
    for (let ping = 0; ping < PINGS; ping++) {
      trips.push(await roundTrip(socket, seq === 1))
      await client.signalAndWait(`ping-${step}-${ping}`, all)
    }
    const best = Math.min(...trips)
    runenv.recordMessage(`${step}: round trip ${best.toFixed(1)} ms`)
    return { step, latency, best }
  }

  const measured = [await measure('first', milliseconds('latency_ms'))]
  config.default.latency = milliseconds('second_latency_ms') * NANOSECONDS
  await network.configureNetwork({ ...config, callbackState: 'latency-reduced' })
  measured.push(await measure('second', milliseconds('second_latency_ms')))
  socket.destroy()

  // Judged at the end, so that nobody waits for one that has failed.
  for (const { step, latency, best } of measured) {
    const [least, most] = [2 * latency, 2 * latency + milliseconds('tolerance_ms')]
    if (!(best >= least && best <= most)) {
      throw new Error(`${step}: round trip ${best} ms is not within ${least} and ${most} ms`)
    }
  }
}

/** Gives the two instances one connection: the first one listens, the other one dials. */
async function connect (client, all, seq, addressOf) {
  let socket
  if (seq === 1) {
    const server = net.createServer().listen(PORT, addressOf(seq))
    await once(server, 'listening')
    const [[accepted]] = await Promise.all([once(server, 'connection'), client.signalAndWait('listening', all)])
    server.close()
    socket = accepted
  } else {
    await client.signalAndWait('listening', all)
    socket = net.connect({ host: addressOf(1), port: PORT })
    await once(socket, 'connect')
  }
  return socket.setNoDelay(true)
}

/** Both ends measure, one after the other. Resolves to milliseconds. */
async function roundTrip (socket, first) {
  if (!first) await pong(socket)
  const start = performance.now()
  socket.write('.')
  await byte(socket)
  const took = performance.now() - start
  if (first) await pong(socket)
  return took
}

async function pong (socket) {
  await byte(socket)
  socket.write('.')
}

/** Reads one byte: the other end's pong and its ping may come together. */
async function byte (socket) {
  while (socket.read(1) === null) {
    if (socket.readableEnded) throw new Error('the other end has hung up')
    await once(socket, 'readable')
  }
}
