// An instance of a run: its environment, the acts it goes through with the others, and its outcome.
import { networkInterfaces } from 'node:os'
import { Sync } from './sync.mjs'

export class Instance {
  constructor (env, sync, index) {
    this.env = env
    this.sync = sync
    this.index = index
  }

  // Runs `cases[TEST_CASE]` and tells how it ended.
  static async run (cases) {
    const env = environment()
    const sync = await Sync.connect(env)
    const place = await sync.signal('initialized_global')
    await sync.signal(`initialized_group_${env.group}`)
    if (env.sidecar) await sync.barrier('network-initialized', env.instances)
    const instance = new Instance(env, sync, env.index ?? place - 1)
    const outcome = await instance.#outcome(cases[env.case])
    console.log(JSON.stringify({ ts: Date.now() * 1e6, msg: '', group_id: env.group, run_id: env.run, event: outcome }))
    await sync.event(outcome)
    sync.close()
    process.exit(outcome.success_event ? 0 : 1)
  }

  // Tells everybody a value and gets everybody's, in the order of the instances.
  async exchange (topic, value) {
    const { group, incarnation, instances } = this.env
    await this.sync.publish(topic, { instance: this.index, group, incarnation, value })
    const told = await this.sync.collect(topic, instances, message => message.instance)
    return told.sort((a, b) => a.instance - b.instance)
  }

  // Runs a stage; all instances begin the next one together.
  async phase (name, stage) {
    await this.sync.event({ stage_start_event: { name, group: this.env.group } })
    const output = await stage()
    await this.sync.event({ stage_end_event: { name, group: this.env.group } })
    await this.sync.signal(`phase:${name}`)
    await this.sync.barrier(`phase:${name}`, this.env.instances)
    return output
  }

  // Fails when the composition says that this group has to be something else.
  expect (implementation) {
    const wanted = this.env.optional('implementation')
    if (wanted && wanted !== implementation) throw new Error(`the group has to be ${wanted} and is ${implementation}`)
  }

  message (text) {
    console.log(JSON.stringify({
      ts: Date.now() * 1e6, msg: '', group_id: this.env.group, run_id: this.env.run, event: { message_event: { message: text } }
    }))
  }

  async #outcome (act) {
    const group = this.env.group
    if (act == null) return { failure_event: { group, error: `case \`${this.env.case}\` is not implemented in JavaScript` } }
    try {
      await act(this)
      return { success_event: { group } }
    } catch (err) {
      console.error(err)
      return { failure_event: { group, error: err.message } }
    }
  }
}

function environment () {
  const text = (name, instead) => {
    const value = process.env[name] ?? instead
    if (value == null) throw new Error(`environment variable ${name} is not set: this is a test plan, and a platform runs it`)
    return value
  }
  const number = name => process.env[name] == null ? undefined : Number(process.env[name])
  const params = new Map(text('TEST_INSTANCE_PARAMS', '').split('|').filter(Boolean).map(pair => {
    const at = pair.indexOf('=')
    return [pair.slice(0, at), pair.slice(at + 1)]
  }))
  // A parameter without a value may be there as `null`.
  const given = name => ['', 'null', undefined].includes(params.get(name)) ? undefined : params.get(name)
  return {
    plan: text('TEST_PLAN'),
    case: text('TEST_CASE'),
    run: text('TEST_RUN'),
    group: text('TEST_GROUP_ID'),
    // As the Rust SDK has it; a text, since a number here has 53 bits only.
    seed: given('seed') ?? process.env.GROUNDSWELL_SEED ?? '42',
    role: given('role') ?? text('TEST_GROUP_ID'),
    instances: Number(text('TEST_INSTANCE_COUNT')),
    sidecar: process.env.TEST_SIDECAR === 'true',
    incarnation: number('GROUNDSWELL_INCARNATION') ?? 0,
    index: number('GROUNDSWELL_INSTANCE'),
    syncHost: text('SYNC_SERVICE_HOST', 'testground-sync-service'),
    syncPort: Number(text('SYNC_SERVICE_PORT', '5050')),
    ip: address(process.env.TEST_SUBNET),
    optional: given,
    param: name => {
      if (!params.has(name)) throw new Error(`the parameter \`${name}\` is not given: give it a default in the manifest, or a value in the composition`)
      return params.get(name)
    }
  }
}

// This machine's address in a network such as 16.3.0.0/16.
function address (subnet) {
  const number = ip => ip.split('.').reduce((sum, part) => sum * 256 + Number(part), 0)
  const own = Object.values(networkInterfaces()).flat().filter(at => at.family === 'IPv4').map(at => at.address)
  if (subnet == null) return '127.0.0.1'
  const [network, bits] = subnet.split('/')
  const size = 2 ** (32 - Number(bits))
  const inside = ip => Math.floor(number(ip) / size) === Math.floor(number(network) / size)
  return own.find(inside) ?? '127.0.0.1'
}
