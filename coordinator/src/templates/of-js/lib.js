// What the SDK does not have: own addresses, an exchange, KPIs, units.
'use strict'
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { invokeMap, network } = require('@testground/sdk')

// Runs cases once the network is there. Returning is success, throwing is failure.
exports.run = cases => {
  const ready = play => async (runenv, client) => {
    await network.newClient(client, runenv).waitNetworkInitialized()
    await play(runenv, client)
  }
  invokeMap(Object.fromEntries(Object.entries(cases).map(([name, play]) => [name, ready(play)])))
}

// Shapes everything this instance sends; latency is in nanoseconds.
exports.shape = (runenv, client, shape) => network.newClient(client, runenv).configureNetwork({
  network: 'default',
  enable: true,
  default: shape,
  callbackState: `shaped-${os.hostname()}`,
  callbackTarget: 1,
  routingPolicy: 'deny_all'
})

// The address in the data network, which is interface eth1 here.
exports.addressOf = runenv => {
  const found = (os.networkInterfaces().eth1 || []).find(address => address.family === 'IPv4')
  if (!found) throw new Error(`no address in ${runenv.testSubnet}`)
  return found.address
}

// The instance's number in the run: the platform tells it.
const index = Number(process.env.GROUNDSWELL_INSTANCE)
exports.index = index

// Tells everybody something, and hears it from everybody, in the order of the instances.
exports.exchange = async (runenv, client, topic, value) => {
  await client.publish(topic, { ...value, index, group: runenv.testGroupId })
  const messages = await client.subscribe(topic)
  const peers = []
  for await (const peer of messages.wait) {
    peers.push(peer)
    if (peers.length === runenv.testInstanceCount) break
  }
  messages.cancel()
  peers.sort((a, b) => a.index - b.index)
  return { peers, index: peers.findIndex(peer => peer.index === index) }
}

// A KPI.
exports.record = (runenv, name, value, unit) => {
  const line = { ts: Date.now() * 1e6, type: 'point', name, measures: { value }, unit }
  fs.appendFileSync(path.join(runenv.testOutputsPath, 'results.out'), JSON.stringify(line) + '\n')
}

const parse = (text, units) => {
  const [, number, unit] = /^([\d.]+)\s*(\D*)$/.exec(text) || []
  if (!(unit in units)) throw new Error(`\`${text}\` has none of the units ${Object.keys(units)}`)
  return Number(number) * units[unit]
}

exports.milliseconds = text => parse(text, { ms: 1, s: 1000, m: 60000 })
exports.bytes = text => parse(text, { '': 1, B: 1, KiB: 1024, MiB: 1024 * 1024 })
exports.sleep = ms => new Promise(resolve => setTimeout(resolve, Math.max(0, ms)))

// Random numbers from 0 up to 1 that are the same in every run with the same seed.
exports.random = (seed, stream) => {
  let state = [...`${seed}/${index}/${stream}`].reduce((hash, c) => Math.imul(hash ^ c.charCodeAt(0), 16777619), 2166136261)
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}
