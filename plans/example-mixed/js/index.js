'use strict'

// The JavaScript half: says hello, hears everyone, and insists on having heard both languages.
const { invokeMap } = require('@testground/sdk')

async function meet (runenv, client) {
  // The Rust SDK begins by waiting until every instance of the run has said that it is there. The
  // JavaScript SDK does not say it by itself.
  await client.signalEntry('initialized_global')

  await client.publish('hello', { language: 'js' })
  const hello = await client.subscribe('hello')
  const heard = []
  for await (const { language } of hello.wait) {
    heard.push(language)
    if (heard.length === runenv.testInstanceCount) break
  }
  hello.cancel()
  for (const language of ['js', 'rust']) {
    if (!heard.includes(language)) throw new Error(`nobody spoke ${language}: ${heard}`)
  }
  await client.signalAndWait('done', runenv.testInstanceCount)
}

invokeMap({ meet })
