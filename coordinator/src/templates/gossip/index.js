// Instances spread messages over UDP: whoever hears one for the first time passes it on to some others.
'use strict'
const dgram = require('node:dgram')
const { once } = require('node:events')
const { run, exchange, addressOf, record, milliseconds, sleep, random } = require('./lib')

run({ gossip })

async function gossip (runenv, client) {
  const params = runenv.testInstanceParams
  const socket = dgram.createSocket('udp4').bind(0, addressOf(runenv))
  await once(socket, 'listening')
  const { address, port } = socket.address()
  const { peers, index } = await exchange(runenv, client, 'addresses', { address, port })
  const neighbours = choose(peers, index, Number(params.degree))

  const known = new Set()
  let duplicates = 0
  const spread = rumour => {
    known.add(`${rumour.origin}/${rumour.number}`)
    for (const { address, port } of neighbours) socket.send(JSON.stringify(rumour), port, address)
  }
  socket.on('message', text => {
    const rumour = JSON.parse(text)
    if (known.has(`${rumour.origin}/${rumour.number}`)) return duplicates++
    // Instances share a clock, or have good ones.
    record(runenv, 'delivery_s', Math.max(0, Date.now() - rumour.sent) / 1000, 's')
    spread(rumour)
  })
  await client.signalAndWait('begin', runenv.testInstanceCount)
  for (let number = 0; number < Number(params.messages); number++) {
    spread({ origin: index, number, sent: Date.now() })
    await sleep(milliseconds(params.every))
  }
  await sleep(milliseconds(params.settle))
  await client.signalAndWait('end', runenv.testInstanceCount)
  socket.close()

  const all = peers.length * Number(params.messages)
  const ratio = known.size / all
  record(runenv, 'delivered', ratio, 'ratio')
  record(runenv, 'duplicates', duplicates, 'count')
  if (ratio < parseFloat(params.delivered) / 100) throw new Error(`heard ${known.size} of ${all} messages`)
}

// The next instance, so that everybody is reached, and some that are drawn.
function choose (peers, index, degree) {
  const next = (index + 1) % peers.length
  const draw = random(42, 'neighbours')
  const others = peers.map((_, at) => at).filter(at => at !== index && at !== next)
  const drawn = others.map(at => [draw(), at]).sort(([a], [b]) => a - b).map(([, at]) => at)
  return [next, ...drawn].slice(0, degree).map(at => peers[at])
}
