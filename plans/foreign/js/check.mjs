// `node check.mjs [CASE]...`: plays cases of plans/interop with two instances of this implementation and a sync
// service in this process. Says what every pair did; fails when a pair failed that should not.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { WebSocketServer } from 'ws'

const here = name => fileURLToPath(new URL(name, import.meta.url))
const VARIANTS = '["tcp/noise/yamux","tcp/plaintext/yamux","tcp/tls/yamux","tcp/noise/mplex","ws/noise/yamux","quic/tls/quic","sctp/noise/yamux"]'
// `hole-punch` is missing: without NATs it proves nothing.
const CASES = ['ping', 'identify', 'kad-find', 'gossip', 'relay-circuit', 'negotiation-matrix', 'bitswap-fetch', 'bitswap-many']

// States and topics in memory, as a sync service has them.
function serve () {
  const states = new Map()
  const topics = new Map()
  const waiting = []
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  const list = name => topics.get(name) ?? topics.set(name, { items: [], followers: [] }).get(name)
  const wake = () => waiting.filter(one => (states.get(one.state) ?? 0) >= one.target).forEach(one => {
    waiting.splice(waiting.indexOf(one), 1)
    one.answer({})
  })
  server.on('connection', socket => socket.on('message', data => {
    const request = JSON.parse(data)
    const answer = rest => socket.send(JSON.stringify({ id: request.id, ...rest }))
    if (request.signal_entry) {
      const { state } = request.signal_entry
      states.set(state, (states.get(state) ?? 0) + 1)
      answer({ signal_entry: { seq: states.get(state) } })
      wake()
    } else if (request.barrier) {
      waiting.push({ ...request.barrier, answer })
      wake()
    } else if (request.publish) {
      const { items, followers } = list(request.publish.topic)
      const text = JSON.stringify(request.publish.payload)
      items.push(text)
      followers.forEach(tell => tell(text))
      answer({ publish: { seq: items.length } })
    } else if (request.subscribe) {
      const { items, followers } = list(request.subscribe.topic)
      const tell = text => answer({ subscribe: text })
      items.forEach(tell)
      followers.push(tell)
    }
  }))
  return { server, topics }
}

async function play (name) {
  const { server, topics } = serve()
  await once(server, 'listening')
  const env = {
    ...process.env,
    TEST_PLAN: 'interop', TEST_CASE: name, TEST_RUN: 'check', TEST_GROUP_ID: 'js', TEST_INSTANCE_COUNT: '2',
    TEST_INSTANCE_PARAMS: `seed=42|nodes=3|blocks=16|block_bytes=16384|variants=${VARIANTS}`, SYNC_SERVICE_HOST: '127.0.0.1', SYNC_SERVICE_PORT: String(server.address().port)
  }
  const both = [0, 1].map(index => spawn(process.execPath, ['--import', here('./poly.mjs'), here('./main.mjs')], {
    env: { ...env, GROUNDSWELL_INSTANCE: String(index) }, stdio: ['ignore', 'ignore', 'inherit']
  }))
  const codes = await Promise.all(both.map(async child => (await once(child, 'exit'))[0]))
  const told = topics.get('run:check:plan:interop:case:' + name + ':topics:outcomes')?.items.map(text => JSON.parse(text)) ?? []
  server.close()
  let failed = codes.some(code => code !== 0) || told.length !== 2
  for (const { instance, value } of told) {
    for (const { variant, listener, error, measures } of value) {
      // There is no SCTP here, and that must show.
      const wanted = variant.startsWith('sctp') ? error != null : error == null
      failed ||= !wanted
      console.log(wanted ? 'ok  ' : 'FAIL', name, `${instance} -> ${listener}`, variant, error ?? JSON.stringify(measures))
    }
  }
  return !failed
}

let good = true
for (const name of process.argv.length > 2 ? process.argv.slice(2) : CASES) good = await play(name) && good
process.exit(good ? 0 : 1)
