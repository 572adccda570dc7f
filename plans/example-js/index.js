'use strict'

// One file, three cases, on the published JavaScript SDK as it is.
const { invokeMap } = require('@testground/sdk')

/** Says something and succeeds. */
async function output (runenv, client) {
  runenv.recordMessage('hello from JavaScript')
}

/** Fails on purpose. */
async function failure (runenv, client) {
  throw new Error('intentional failure')
}

/** Whoever signals first leads; the others wait until the leader has published. */
async function sync (runenv, client) {
  const seq = await client.signalEntry('enrolled')
  if (seq === 1) {
    const enrolled = await client.barrier('enrolled', runenv.testInstanceCount)
    await enrolled.wait
    await client.publish('go', { leader: seq })
  }
  const go = await client.subscribe('go')
  for await (const message of go.wait) {
    runenv.recordMessage(`instance ${seq} heard of leader ${message.leader}`)
    break
  }
  go.cancel()
  await client.signalAndWait('done', runenv.testInstanceCount)
}

invokeMap({ output, failure, sync })
