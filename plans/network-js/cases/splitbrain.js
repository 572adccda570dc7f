'use strict'

const { network: { DENY_ALL } } = require('@testground/sdk')
const { answer, dial, meet } = require('./talk')

const PORT = 8765
/** A dropped packet is never answered, so a dial that takes so long has met a drop. In milliseconds. */
const PATIENCE = 3000
/** A rejection is an answer. In milliseconds. */
const AT_ONCE = 2000
const FILTERS = { accept: 0, reject: 1, drop: 2 }

/** Three regions. The first one filters its packets to the second; everyone dials everyone. */
module.exports = policy => async ({ runenv, client, net }) => {
  const all = runenv.testInstanceCount
  const seq = await client.signalEntry('enrolled')
  const me = { seq, region: seq % 3, address: net.getDataNetworkIP() }
  const server = await answer(PORT, 'hello')
  const peers = await meet(client, me, all)

  const filtered = peers.filter(peer => me.region === 0 && peer.region === 1)
  await net.configureNetwork({
    network: 'default',
    enable: true,
    default: { filter: FILTERS.accept },
    rules: filtered.map(peer => ({ subnet: `${peer.address}/32`, filter: FILTERS[policy] })),
    callbackState: `reconfigured-${seq}`,
    callbackTarget: 1,
    routingPolicy: DENY_ALL
  })
  await client.signalAndWait('configured', all)

  const others = peers.filter(peer => peer.seq !== seq)
  const dialed = await Promise.all(others.map(peer => dial(peer.address, PORT, PATIENCE)))
  // Nobody stops to answer before all have asked.
  await client.signalAndWait('dialed', all)
  server.close()

  const wrong = others.flatMap((peer, index) => {
    const split = policy !== 'accept' && me.region + peer.region === 1
    const expected = split ? (policy === 'reject' && me.region === 0 ? 'refused' : 'silence') : 'reached'
    const found = became(dialed[index])
    return found === expected
      ? []
      : [`region ${me.region} to region ${peer.region} (${peer.address}): ${found}, not ${expected}`]
  })
  if (wrong.length > 0) throw new Error(wrong.join('; '))
}

function became ({ heard, ms }) {
  if (heard === 'hello') return 'reached'
  return ms < AT_ONCE ? 'refused' : 'silence'
}
