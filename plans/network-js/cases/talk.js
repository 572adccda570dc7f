'use strict'

const net = require('net')

/**
 * Dials, and listens until the other end hangs up. Resolves to what was heard, or to why not, and how long it took.
 *
 * @param {string} host
 * @param {number} port
 * @param {number} patience in milliseconds
 * @returns {Promise<{ heard?: string, error?: string, ms: number }>}
 */
function dial (host, port, patience) {
  const start = performance.now()
  return new Promise(resolve => {
    let heard = ''
    const socket = net.connect({ host, port })
    const end = outcome => {
      clearTimeout(timer)
      socket.destroy()
      resolve({ ...outcome, ms: performance.now() - start })
    }
    const timer = setTimeout(() => end({ error: 'silence' }), patience)
    socket.on('data', chunk => { heard += chunk })
    socket.on('end', () => end({ heard }))
    socket.on('error', err => end({ error: err.code }))
  })
}

/** Says `words` to everyone who dials. */
function answer (port, words) {
  const server = net.createServer(socket => socket.on('error', () => {}).end(words))
  return new Promise((resolve, reject) => {
    server.on('error', reject).listen(port, '0.0.0.0', () => resolve(server))
  })
}

/** Tells everyone who it is, and hears who the `count` of them are. */
async function meet (client, me, count) {
  await client.publish('peers', me)
  const peers = []
  const subscription = await client.subscribe('peers')
  for await (const peer of subscription.wait) {
    if (peers.push(peer) === count) break
  }
  subscription.cancel()
  return peers
}

module.exports = { answer, dial, meet }
