// Instances come and go while others ask them: how often does who is asked answer?
'use strict'
const dgram = require('node:dgram')
const { once } = require('node:events')
const { run, exchange, addressOf, record, milliseconds, sleep, random } = require('./lib')

run({ churn })

async function churn (runenv, client) {
  const params = runenv.testInstanceParams
  const [up, down] = [milliseconds(params.up), milliseconds(params.down)]
  const socket = await bind(runenv)
  const { address, port } = socket.address()
  const { peers, index } = await exchange(runenv, client, 'addresses', { address, port })
  const others = peers.filter((_, at) => at !== index)

  // It answers only while it is there.
  let here = false
  let running = true
  socket.on('message', (text, from) => {
    if (here) socket.send(text, from.port, from.address)
  })
  const comeAndGo = async () => {
    const draw = random(42, 'times')
    const time = mean => sleep(-mean * Math.log(1 - draw()))
    // Some begin away, as some are at any time.
    if (draw() < down / (up + down)) await time(down)
    while (running) {
      here = true
      await time(up)
      here = false
      await time(down)
    }
  }
  const living = comeAndGo()
  await client.signalAndWait('begin', runenv.testInstanceCount)
  const ratio = await ask(runenv, others)
  record(runenv, 'answered', ratio, 'ratio')
  const { peers: all } = await exchange(runenv, client, 'answered', { ratio })
  running = false
  await living
  socket.close()

  const mean = all.reduce((sum, peer) => sum + peer.ratio, 0) / all.length
  const expected = up / (up + down)
  if (Math.abs(mean - expected) > parseFloat(params.slack) / 100) {
    throw new Error(`${mean} of the questions were answered, and ${expected} of the time somebody is there`)
  }
}

async function bind (runenv) {
  const socket = dgram.createSocket('udp4').bind(0, addressOf(runenv))
  await once(socket, 'listening')
  return socket
}

// Asks one after the other, and returns how many answered.
async function ask (runenv, others) {
  const params = runenv.testInstanceParams
  const socket = await bind(runenv)
  const draw = random(42, 'others')
  const end = performance.now() + milliseconds(params.run_for)
  let [asked, answered] = [0, 0]
  while (performance.now() < end) {
    const other = others[Math.floor(draw() * others.length)]
    const number = String(asked++)
    const begun = performance.now()
    const heard = new Promise(resolve => socket.on('message', text => text.toString() === number && resolve(true)))
    socket.send(number, other.port, other.address)
    if (await Promise.race([heard, sleep(milliseconds(params.answer_within))])) {
      record(runenv, 'rtt_s', (performance.now() - begun) / 1000, 's')
      answered++
    }
    socket.removeAllListeners('message')
    await sleep(milliseconds(params.every) - (performance.now() - begun))
  }
  socket.close()
  return answered / asked
}
