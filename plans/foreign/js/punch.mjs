// Holes: from a connection through a relay to a direct one.
import { multiaddr } from '@multiformats/multiaddr'

// How long a direct connection may take once there is one through the relay. Less than an attempt, so that it is told
// what was missing.
const PUNCHED = 10_000

// Gets all listeners of this instance a place at the relay, unless it is the relay.
export async function reserveToPunch ({ instance, book, listeners, relays }) {
  if (relays) return
  for (const [variant, [node]] of Object.entries(listeners)) {
    try {
      await node.components.transportManager.listen([multiaddr(`${relay(book, variant)}/p2p-circuit`)])
    } catch (err) {
      // The attempts to reach it fail, and tell that pair by pair.
      instance.message(`no place at the relay with ${variant}: ${err.message}`)
    }
  }
}

// Reaches the listener through the relay, and waits until both have got through to each other.
export async function punched ({ node, peer, variant, context }, measures, signal) {
  const address = relay(context.book, variant)
  await node.dial(multiaddr(address), { signal })
  const begun = performance.now()
  await node.dial(multiaddr(`${address}/p2p-circuit/p2p/${peer}`), { signal })
  measures.relayed_s = (performance.now() - begun) / 1000
  const isDirect = connection => !connection.remoteAddr.toString().includes('/p2p-circuit')
  const limit = performance.now() + PUNCHED
  while (!node.getConnections(peer).some(isDirect)) {
    if (performance.now() > limit) throw new Error(`waited ${PUNCHED / 1000} s for a direct connection in vain`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  measures.direct_s = (performance.now() - begun) / 1000
}

// Where the instance is that relays for all others.
function relay (book, variant) {
  const address = book.find(({ value }) => value.relay)?.value.addresses[variant]?.[0]
  if (address == null) throw new Error(`no instance relays with ${variant}`)
  return address
}
