// Helia's Bitswap on js-libp2p: serves the blocks of a run, and fetches them.
import { createHash } from 'node:crypto'
import { subscribe } from 'node:diagnostics_channel'
import { setMaxListeners } from 'node:events'
import { readFileSync } from 'node:fs'
import { withBitswap } from '@helia/bitswap'
import { multiaddr } from '@multiformats/multiaddr'
import { MemoryBlockstore } from 'blockstore-core'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'

const installed = JSON.parse(readFileSync(new URL('./node_modules/@helia/bitswap/package.json', import.meta.url)))
const version = installed.version.split('.').slice(0, 2).join('.')

export const BITSWAP = `helia-bitswap-${version}`

// How long blocks that nobody waits for any more have to come in before they are counted.
const LATE = 500

// Sockets that this process has opened since `fetched` began; js-libp2p does not count bytes.
let sockets = []
subscribe('net.client.socket', ({ socket }) => sockets.push(socket))

// Serves all blocks of the run.
export async function serve (node, instance) {
  const blockstore = new MemoryBlockstore()
  for (const data of blocks(instance)) await blockstore.put(await name(data), data)
  await bitswapOn(node, blockstore)
}

// Fetches all blocks of the run from all nodes of a listener.
export async function fetched ({ node, listener, context, variant }, measures, signal) {
  // Every block that is asked for listens to it.
  setMaxListeners(Infinity, signal)
  const broker = await bitswapOn(node, new MemoryBlockstore())
  const wanted = blocks(context.instance)
  const names = await Promise.all(wanted.map(name))
  sockets = []
  for (const address of listener.value.addresses[variant]) await node.dial(multiaddr(address), { signal })
  const before = received()
  const begun = performance.now()
  const came = await Promise.all(names.map(cid => broker.retrieve(cid, { signal })))
  measures.fetch_s = (performance.now() - begun) / 1000
  for (const [number, data] of came.entries()) {
    if (Buffer.compare(data, wanted[number]) !== 0) throw new Error(`${names[number]} came as something else`)
  }
  await new Promise(resolve => setTimeout(resolve, LATE))
  measures.received_per_wanted = (received() - before) / wanted.reduce((sum, data) => sum + data.length, 0)
  await broker.stop()
}

function received () {
  return sockets.reduce((sum, socket) => sum + socket.bytesRead, 0)
}

// Bitswap needs of Helia what stands here; the rest of Helia is 600 packages.
async function bitswapOn (node, blockstore) {
  let mixin, broker
  withBitswap({ addMixin: given => { mixin = given } })
  await mixin.start({
    libp2p: node,
    blockstore,
    logger: node.logger,
    getHasher: async () => sha256,
    routing: { findProviders: async function * () {} },
    status: 'starting',
    hasBlockBroker: () => false,
    addBlockBroker: given => { broker = given }
  })
  return broker
}

// The blocks of a run, made as in `../../interop/book/src/blocks.rs`.
function blocks ({ env }) {
  const [count, size] = ['blocks', 'block_bytes'].map(param => Number(env.param(param)))
  return Array.from({ length: count }, (_, number) => {
    const parts = Array.from({ length: Math.ceil(size / 32) }, (_, part) =>
      createHash('sha256').update(`groundswell interop ${env.seed} ${number} ${part}`).digest())
    return new Uint8Array(Buffer.concat(parts).subarray(0, size))
  })
}

async function name (data) {
  return CID.createV1(raw.code, await sha256.digest(data))
}
