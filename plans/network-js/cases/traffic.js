'use strict'

const http = require('http')
const { network: { ALLOW_ALL, DENY_ALL } } = require('@testground/sdk')

/** How long a fetch may take, in milliseconds. */
const PATIENCE = 30000
/** What is not allowed is refused, and does not take until somebody loses patience. In milliseconds. */
const AT_ONCE = 2000

/** Instances ask for the Internet, or ask to be kept from it, and try to fetch something there. */
module.exports = policy => async ({ runenv, net }) => {
  const { url } = runenv.testInstanceParams
  const configure = (step, routingPolicy) => net.configureNetwork({
    network: 'default',
    enable: true,
    default: {},
    callbackState: `traffic-${step}`,
    routingPolicy
  })

  // Nobody has asked for anything yet.
  await blocked(runenv, url)
  if (policy === 'allowed') {
    await configure('allowed', ALLOW_ALL)
    const { status, length } = await fetch(url, PATIENCE)
    if (status < 200 || status > 299) throw new Error(`${url} is answered with ${status}`)
    runenv.recordMessage(`${length} bytes from ${url}`)
  }
  await configure('blocked', DENY_ALL)
  await blocked(runenv, url)
}

async function blocked (runenv, url) {
  const start = performance.now()
  const error = await fetch(url, AT_ONCE).then(() => undefined, err => err)
  const took = performance.now() - start
  if (!error) throw new Error(`${url} is fetched, although that is not allowed`)
  if (took >= AT_ONCE) throw new Error(`${url} is not refused within ${AT_ONCE} ms`)
  runenv.recordMessage(`refused after ${took.toFixed(1)} ms: ${error.message}`)
}

/** Fetches a page by HTTP. Resolves to its status and how long it is. */
function fetch (url, timeout) {
  return new Promise((resolve, reject) => {
    const request = http.get(url, { timeout, agent: false }, response => {
      let length = 0
      response.on('data', chunk => { length += chunk.length })
      response.on('end', () => resolve({ status: response.statusCode, length }))
      response.on('error', reject)
    })
    request.on('timeout', () => request.destroy(new Error('no answer in time')))
    request.on('error', reject)
  })
}
