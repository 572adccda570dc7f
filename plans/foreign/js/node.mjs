// js-libp2p nodes.
import { quic } from '@chainsafe/libp2p-quic'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { dcutr } from '@libp2p/dcutr'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { mplex } from '@libp2p/mplex'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { plaintext } from '@libp2p/plaintext'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { createLibp2p } from 'libp2p'
import { readFileSync } from 'node:fs'

const installed = JSON.parse(readFileSync(new URL('./node_modules/libp2p/package.json', import.meta.url)))
const version = installed.version.split('.').slice(0, 2).join('.')

export const IMPLEMENTATION = `js-libp2p-${version}`

const transports = { tcp, ws: webSockets, quic }
const securities = { noise, plaintext, tls }
const muxers = { yamux, mplex }

// The transport, security and muxer of a variant such as `tcp/noise/yamux`; an error if js-libp2p lacks one. QUIC has
// its own security and muxer; the ones beside it are for circuits.
function stack (variant) {
  const [transport, security, muxer] = variant === 'quic/tls/quic' ? ['quic', 'noise', 'yamux'] : variant.split('/')
  const pick = (kinds, name) => {
    if (kinds[name] == null) throw new Error(`${IMPLEMENTATION} has no ${name}`)
    return kinds[name]()
  }
  return { transport: pick(transports, transport), security: pick(securities, security), muxer: pick(muxers, muxer) }
}

// Where a node that speaks a variant listens.
function at (variant, ip) {
  const [transport] = variant.split('/')
  if (transport === 'quic') return `/ip4/${ip}/udp/0/quic-v1`
  return `/ip4/${ip}/tcp/0${transport === 'ws' ? '/ws' : ''}`
}

// Starts a node that speaks one variant only. `serves` makes it do what others need of a listener, `punches` try for
// direct connections. With `dht` it has a DHT, which pings peers by itself: rust-libp2p answers one ping at a time and
// drops the one before.
export async function start (variant, ip, { listens, serves, punches, dht }) {
  const { transport, security, muxer } = stack(variant)
  const node = await createLibp2p({
    addresses: { listen: listens ? [at(variant, ip)] : [] },
    transports: [transport, circuitRelayTransport()],
    connectionEncrypters: [security],
    streamMuxers: [muxer],
    connectionGater: { denyDialMultiaddr: () => false },
    connectionMonitor: { enabled: false },
    nodeInfo: { userAgent: IMPLEMENTATION },
    services: {
      identify: identify({ runOnLimitedConnection: true }),
      // The library counts a stream until its other end has closed it, too.
      ping: ping({ runOnLimitedConnection: true, maxOutboundStreams: 4, maxInboundStreams: 64 }),
      ...(dht ? { dht: kadDHT({ protocol: '/gs/kad/1.0.0', clientMode: !serves, peerInfoMapper: passthroughMapper, allowQueryWithZeroPeers: true }) } : {}),
      pubsub: gossipsub({ allowPublishToZeroTopicPeers: true, emitSelf: false, directConnectTicks: 1 }),
      ...(punches ? { dcutr: dcutr() } : {}),
      ...(serves ? { relay: circuitRelayServer({ reservations: { maxReservations: 256, applyDefaultLimit: true } }) } : {})
    }
  })
  // The addresses of a run look public, and js-libp2p keeps such to itself until somebody has confirmed them.
  for (const address of node.components.transportManager.getAddrs()) {
    node.components.addressManager.confirmObservedAddr(address, { type: 'transport', ttl: 3_600_000 })
  }
  return node
}
