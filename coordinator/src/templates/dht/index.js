// A distributed hash table in the manner of Kademlia: instances find out who is nearest to a key, by asking others.
'use strict'
const dgram = require('node:dgram')
const { once } = require('node:events')
const { run, exchange, addressOf, record, milliseconds, random } = require('./lib')

const NEAR = 4

run({ find })

async function find (runenv, client) {
  const params = runenv.testInstanceParams
  const serving = await bind(runenv)
  const asking = await bind(runenv)
  const { address, port } = serving.address()
  const me = { id: key(random(42, 'id')).toString(), address, port }
  const { peers, index } = await exchange(runenv, client, 'nodes', me)
  const all = peers.map(({ id, address, port }) => ({ id: BigInt(id), address, port }))
  const known = table(all[index], all, Number(params.bucket_size))

  serving.on('message', (text, from) => {
    const wanted = JSON.parse(text).find
    const near = nearest(known, BigInt(wanted)).map(node => ({ ...node, id: node.id.toString() }))
    serving.send(JSON.stringify({ about: wanted, near }), from.port, from.address)
  })
  await client.signalAndWait('begin', runenv.testInstanceCount)
  const draw = random(42, 'keys')
  let found = 0
  for (let number = 0; number < Number(params.lookups); number++) {
    const wanted = key(draw)
    const begun = performance.now()
    const { node, asked } = await lookup(asking, known, wanted, milliseconds(params.answer_within))
    record(runenv, 'lookup_s', (performance.now() - begun) / 1000, 's')
    record(runenv, 'asked', asked, 'count')
    // The plan knows everybody, so it knows the truth.
    if (node.id === nearest(all, wanted)[0].id) found++
  }
  const ratio = found / Number(params.lookups)
  record(runenv, 'found', ratio, 'ratio')
  // Everybody answers until everybody has found what it looked for.
  await client.signalAndWait('end', runenv.testInstanceCount)
  serving.close()
  asking.close()
  if (ratio < parseFloat(params.found) / 100) throw new Error(`found ${found} of ${params.lookups}`)
}

async function bind (runenv) {
  const socket = dgram.createSocket('udp4').bind(0, addressOf(runenv))
  await once(socket, 'listening')
  return socket
}

function key (draw) {
  return (BigInt(Math.floor(draw() * 2 ** 32)) << 32n) | BigInt(Math.floor(draw() * 2 ** 32))
}

// Whom a node knows: itself, and of each distance, by its highest bit, at most `size`.
function table (me, all, size) {
  const counts = {}
  return [me, ...all.filter(node => {
    if (node.id === me.id) return false
    const bucket = (node.id ^ me.id).toString(2).length
    counts[bucket] = (counts[bucket] || 0) + 1
    return counts[bucket] <= size
  })]
}

function nearest (nodes, wanted) {
  const distance = node => node.id ^ wanted
  return [...nodes].sort((a, b) => (distance(a) < distance(b) ? -1 : 1)).slice(0, NEAR)
}

// Asks the nearest known node that was not asked, until the nearest few have all been.
async function lookup (socket, table, wanted, limit) {
  const known = new Map(table.map(node => [node.id, node]))
  const asked = new Set([table[0].id])
  for (;;) {
    const near = nearest(known.values(), wanted)
    const next = near.find(node => !asked.has(node.id))
    if (!next) return { node: near[0], asked: asked.size - 1 }
    asked.add(next.id)
    const answer = await ask(socket, next, wanted, limit)
    if (!answer) known.delete(next.id)
    for (const node of answer || []) known.set(BigInt(node.id), { ...node, id: BigInt(node.id) })
  }
}

// What a node knows, or nothing when it does not answer in time.
function ask (socket, node, wanted, limit) {
  return new Promise(resolve => {
    const finish = answer => {
      clearTimeout(timer)
      socket.off('message', hear)
      resolve(answer)
    }
    const hear = text => {
      const { about, near } = JSON.parse(text)
      if (about === wanted.toString()) finish(near)
    }
    const timer = setTimeout(finish, limit)
    socket.on('message', hear)
    socket.send(JSON.stringify({ find: wanted.toString() }), node.port, node.address)
  })
}
