// Instances behind NATs reach each other over UDP by hole punching: a server in the open tells each at which address
// it sees the other.
'use strict'
const dgram = require('node:dgram')
const { once } = require('node:events')
const { run, exchange, addressOf, record, milliseconds, sleep } = require('./lib')

run({ punch })

async function punch (runenv, client) {
  const params = runenv.testInstanceParams
  const socket = dgram.createSocket('udp4').bind(0, addressOf(runenv))
  // A refusal that a packet met is no reason to stop.
  socket.on('error', () => {})
  await once(socket, 'listening')
  const { address, port } = socket.address()
  const { peers, index } = await exchange(runenv, client, 'addresses', { address, port })
  const server = peers.find(peer => peer.group === 'server')
  if (!server) throw new Error('there is no group `server`')
  const group = peers.filter(peer => peer.group === runenv.testGroupId)
  let reached = true
  if (runenv.testGroupId === 'server') {
    introduce(socket)
  } else {
    const number = group.findIndex(peer => peer.index === peers[index].index)
    const took = await reach(params, socket, number, server)
    reached = took !== null
    record(runenv, 'punched', reached ? 1 : 0, 'ratio')
    if (reached) record(runenv, 'time_to_punch_s', took, 's')
    reached = reached === (params.punched === 'true')
  }
  await client.signalAndWait('done', runenv.testInstanceCount)
  socket.close()
  if (!reached) throw new Error('partners reached each other, or did not, against what was expected')
}

// The server: answers each peer with the address of its partner, as soon as both have been seen.
function introduce (socket) {
  const seen = new Map()
  socket.on('message', (text, from) => {
    const { here } = JSON.parse(text)
    seen.set(here, from)
    const partner = seen.get(here ^ 1)
    if (partner) socket.send(JSON.stringify({ there: partner }), from.port, from.address)
  })
}

// Sends to the partner until both have heard each other: 0 and 1 are partners, 2 and 3, and so on.
async function reach (params, socket, me, server) {
  const begun = performance.now()
  const every = milliseconds(params.every)
  let [partner, heard, wasHeard] = [null, null, null]
  socket.on('message', (text, from) => {
    const { there, punch, hears } = JSON.parse(text)
    if (there) partner = partner || there
    if (punch !== (me ^ 1)) return
    partner = from
    heard = heard === null ? (performance.now() - begun) / 1000 : heard
    if (hears) wasHeard = wasHeard || performance.now()
  })
  // Whoever is done goes on for a moment, so that the other hears it.
  while (wasHeard === null || performance.now() - wasHeard < 5 * every) {
    if (wasHeard === null && performance.now() - begun > milliseconds(params.give_up)) return null
    const message = partner ? { punch: me, hears: heard !== null } : { here: me }
    const to = partner || server
    socket.send(JSON.stringify(message), to.port, to.address)
    await sleep(every)
  }
  return heard
}
