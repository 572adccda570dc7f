'use strict'

const os = require('os')
const { answer, dial, meet } = require('./talk')

const PORT = 8765
/** In milliseconds. */
const PATIENCE = 10000

/** Instances tell each other all their addresses, and reach each other by those of the data network alone. */
module.exports = async function usesDataNetwork ({ runenv, client, net }) {
  const data = net.getDataNetworkIP()
  const server = await answer(PORT, data)
  const peers = await meet(client, { data, all: addresses() }, runenv.testInstanceCount)

  const wrong = []
  const ask = async address => (await dial(address, PORT, PATIENCE)).heard
  for (const peer of peers.filter(peer => peer.data !== data)) {
    if (await ask(peer.data) !== peer.data) wrong.push(`${peer.data} is not reached on the data network`)
  }
  const others = peers.flatMap(peer => peer.all.filter(address => address !== peer.data))
  await Promise.all(others.map(async address => {
    const heard = await ask(address)
    if (heard !== undefined && heard !== data) wrong.push(`${address} is reached beside the data network`)
  }))
  // Nobody stops to answer before all have asked.
  await client.signalAndWait('asked', runenv.testInstanceCount)
  server.close()
  if (wrong.length > 0) throw new Error(wrong.join('; '))
}

/** All addresses of this instance but those of its loopback. */
function addresses () {
  return Object.values(os.networkInterfaces()).flat().filter(one => !one.internal).map(one => one.address)
}
