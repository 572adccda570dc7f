// What plans/interop asks of an implementation: to be dialled, and to dial.
import { multiaddr } from '@multiformats/multiaddr'
import { peerIdFromString } from '@libp2p/peer-id'
import { byteStream } from '@libp2p/utils'
import { BITSWAP, fetched, serve } from './bitswap.mjs'
import { IMPLEMENTATION, start } from './node.mjs'
import { punched, reserveToPunch } from './punch.mjs'

const PLAIN = 'tcp/noise/yamux'
const PING = '/ipfs/ping/1.0.0'
const TOPIC = 'interop'
const LIMIT = 10_000

// One case: `prepare` is what a listener does before it is dialled, `attempt` what a dialler does with a listener,
// `limit` how long that may take, `stacks` what listeners speak, `nodes` how many there are of each, `variants` in
// which ways a listener is dialled, if not with each stack.
export const cases = Object.fromEntries(Object.entries({
  ping: { attempt: pinged },
  identify: { attempt: identified },
  'kad-find': { prepare: knowEachOther, attempt: found, dht: true },
  gossip: { prepare: speak, attempt: heard },
  'relay-circuit': { prepare: reserve, attempt: relayed, variants: ways },
  'negotiation-matrix': { attempt: pinged, stacks: listed },
  'bitswap-fetch': { attempt: fetched, bitswap: true, limit: 30_000 },
  'bitswap-many': { attempt: fetched, bitswap: true, limit: 30_000, nodes: instance => Number(instance.env.param('nodes')) },
  'hole-punch': { prepare: reserveToPunch, attempt: punched, stacks: listed, punches: true, limit: 15_000 }
}).map(([name, parts]) => [name, instance => play(instance, parts)]))

async function play (instance, parts) {
  const { prepare, attempt, variants, stacks = () => [PLAIN], limit = LIMIT, dht, punches, bitswap } = parts
  const relays = punches === true && instance.env.role === 'relay'
  const listeners = await listen(instance, stacks(instance), { ...parts, relays })
  const entry = { implementation: bitswap ? BITSWAP : IMPLEMENTATION, relay: relays, peers: {}, addresses: {} }
  instance.expect(entry.implementation)
  for (const [stack, nodes] of Object.entries(listeners)) {
    entry.peers[stack] = nodes[0].peerId.toString()
    entry.addresses[stack] = nodes.flatMap(node => node.getMultiaddrs().map(String))
  }
  const book = await instance.exchange('nodes', entry)
  const context = { instance, book, dht, punches, relays, limit, listeners, node: listeners[PLAIN]?.[0], ended: false }
  await instance.phase('prepare', async () => { await prepare?.(context) })
  const outcomes = await instance.phase('dial', () => dialAll(context, attempt, variants ?? stacks))
  context.ended = true
  await instance.exchange('outcomes', outcomes)
  await Promise.all(Object.values(listeners).flat().map(node => node.stop()))
}

// Listeners of all stacks that there are; of others the dialler says that there is none.
async function listen (instance, stacks, { dht, punches, relays, bitswap, nodes = () => 1 }) {
  const listeners = {}
  for (const stack of stacks) {
    try {
      const all = []
      for (let number = 0; number < nodes(instance); number++) {
        const node = await start(stack, instance.env.ip, { listens: true, serves: !punches || relays, punches: punches && !relays, dht })
        if (bitswap) await serve(node, instance)
        all.push(node)
      }
      listeners[stack] = all
    } catch (err) {
      instance.message(`does not listen with ${stack}: ${err.message}`)
    }
  }
  return listeners
}

async function dialAll (context, attempt, variants) {
  const { instance, book, punches, relays } = context
  if (relays) return []
  const outcomes = []
  for (const variant of variants(instance, book)) {
    const listeners = book.filter(listener => !listener.value.relay && variant !== `via ${listener.instance}` &&
      // Nobody gets through to itself: both ends are behind the same NAT.
      !(punches && listener.instance === instance.index))
    for (const listener of listeners) outcomes.push(await tryOne(context, attempt, variant, listener))
  }
  return outcomes
}

async function tryOne (context, attempt, variant, listener) {
  const outcome = { variant, listener: listener.instance, error: null, measures: {} }
  let node
  try {
    const stack = variant.startsWith('via ') ? PLAIN : variant
    const address = listener.value.addresses[stack]?.[0]
    if (address == null) throw new Error(`${listener.value.implementation} does not listen with ${stack}`)
    const { dht, punches, limit } = context
    node = await start(stack, context.instance.env.ip, { listens: punches, serves: false, punches, dht })
    const target = { node, address: multiaddr(address), peer: peerIdFromString(listener.value.peers[stack]), listener, variant, context }
    await within(limit, attempt(target, outcome.measures, AbortSignal.timeout(limit)))
  } catch (err) {
    outcome.error = err.message || String(err)
    if (process.env.DEBUG) console.error(err)
  }
  await node?.stop()
  return outcome
}

async function pinged ({ node, address }, measures, signal) {
  const begun = performance.now()
  const connection = await node.dial(address, { signal })
  await echo(connection)
  measures.handshake_plus_one_rtt_s = (performance.now() - begun) / 1000
  measures.ping_rtt_s = await echo(connection)
}

// Pings over this very connection, with a stream of its own; the library's ping may open another connection.
async function echo (connection) {
  const stream = await connection.newStream(PING, { runOnLimitedConnection: true })
  const bytes = byteStream(stream)
  const sent = crypto.getRandomValues(new Uint8Array(32))
  const begun = performance.now()
  await bytes.write(sent)
  const came = await bytes.read({ bytes: sent.length })
  const rtt = (performance.now() - begun) / 1000
  if (Buffer.compare(sent, came.subarray()) !== 0) throw new Error('the ping came back as something else')
  await stream.close()
  return rtt
}

async function identified ({ node, address, listener }) {
  const identity = new Promise(resolve => node.addEventListener('peer:identify', event => resolve(event.detail), { once: true }))
  await node.dial(address)
  const { agentVersion, protocols } = await identity
  if (agentVersion !== listener.value.implementation) throw new Error(`it calls itself ${agentVersion}`)
  if (!protocols.includes(PING)) throw new Error(`it does not say that it speaks ${PING}`)
}

// Every listener dials those before it, so that all know each other.
async function knowEachOther ({ instance, book, node }) {
  for (const other of book.filter(other => other.instance < instance.index)) {
    await node.dial(multiaddr(other.value.addresses[PLAIN][0]))
  }
}

// Asks somebody else for the listener.
async function found ({ node, peer, address, listener, context }, measures) {
  const other = context.book.find(other => other.instance !== listener.instance)
  await node.dial(multiaddr(other.value.addresses[PLAIN][0]))
  const begun = performance.now()
  while (true) {
    const answer = await node.peerRouting.findPeer(peer, { signal: AbortSignal.timeout(LIMIT) }).catch(err => err)
    if (answer.multiaddrs?.some(at => address.toString().startsWith(at.toString()))) break
    if (performance.now() - begun > LIMIT) throw new Error(`not found: ${answer.message ?? 'without its address'}`)
    await new Promise(resolve => setTimeout(resolve, 200))
  }
  measures.find_s = (performance.now() - begun) / 1000
}

// Says something twice a second until everybody has dialled.
async function speak (context) {
  const { node } = context
  node.services.pubsub.subscribe(TOPIC)
  const timer = setInterval(() => {
    if (context.ended) clearInterval(timer)
    else node.services.pubsub.publish(TOPIC, new TextEncoder().encode(node.peerId.toString())).catch(() => {})
  }, 500)
}

async function heard ({ node, peer, address }, measures) {
  const pubsub = node.services.pubsub
  const begun = performance.now()
  const message = new Promise(resolve => pubsub.addEventListener('message', event => {
    if (event.detail.topic === TOPIC && new TextDecoder().decode(event.detail.data) === peer.toString()) resolve()
  }))
  pubsub.subscribe(TOPIC)
  await node.dial(address)
  await message
  measures.heard_s = (performance.now() - begun) / 1000
}

// Asks every other listener to relay for this one, when it is this one's turn: two that dial each other at the same
// moment may get in each other's way.
async function reserve ({ instance, book, node }) {
  if (instance.index > 0) await instance.sync.barrier('reserved', instance.index)
  for (const relay of book.filter(relay => relay.instance !== instance.index)) {
    const address = multiaddr(`${relay.value.addresses[PLAIN][0]}/p2p-circuit`)
    await node.components.transportManager.listen([address])
  }
  await instance.sync.signal('reserved')
}

function ways (_, book) {
  return book.map(relay => `via ${relay.instance}`)
}

async function relayed ({ node, peer, variant, context }, measures, signal) {
  const relay = context.book.find(relay => `via ${relay.instance}` === variant)
  const address = multiaddr(`${relay.value.addresses[PLAIN][0]}/p2p-circuit/p2p/${peer}`)
  await pinged({ node, address }, measures, signal)
}

function listed (instance) {
  return JSON.parse(instance.env.param('variants'))
}

function within (limit, promise) {
  return Promise.race([promise, new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`took more than ${limit / 1000} s`)), limit).unref()
  })])
}
