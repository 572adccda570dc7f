// The sync service's wire protocol, and what the Rust SDK makes of it: both meet in one run.
import WebSocket from 'ws'

export class Sync {
  #socket
  #pending = new Map()
  #next = 0
  #prefix

  static async connect (env) {
    const sync = new Sync()
    sync.#prefix = `run:${env.run}:plan:${env.plan}:case:${env.case}:`
    sync.#socket = new WebSocket(`ws://${env.syncHost}:${env.syncPort}/`)
    sync.#socket.on('message', data => sync.#take(JSON.parse(data.toString())))
    await new Promise((resolve, reject) => {
      sync.#socket.once('open', resolve)
      sync.#socket.once('error', reject)
    })
    const lost = why => {
      for (const { fail } of sync.#pending.values()) fail(new Error(`lost the sync service: ${why}`))
    }
    sync.#socket.on('close', code => lost(`closed with ${code}`))
    sync.#socket.on('error', err => lost(err.message))
    return sync
  }

  // Signals a state and returns how many signals it has had.
  async signal (state) {
    const { signal_entry: entry } = await this.#call({ signal_entry: { state: `${this.#prefix}states:${state}` } })
    return entry.seq
  }

  async barrier (state, target) {
    await this.#call({ barrier: { state: `${this.#prefix}states:${state}`, target } })
  }

  async publish (topic, payload) {
    await this.#call({ publish: { topic: `${this.#prefix}topics:${topic}`, payload } })
  }

  // Appends an event of the run's life: this decides how the instance ended.
  async event (payload) {
    await this.#call({ publish: { topic: `${this.#prefix}run_events`, payload } })
  }

  // The first `count` messages of a topic that differ in what `key` makes of them.
  async collect (topic, count, key) {
    const found = new Map()
    const id = String(this.#next++)
    await new Promise((resolve, reject) => {
      this.#pending.set(id, {
        done: response => {
          if (response.subscribe == null) return
          const message = JSON.parse(response.subscribe)
          found.set(key(message), message)
          if (found.size === count) resolve()
        },
        fail: reject,
        stays: true
      })
      this.#send(id, { subscribe: { topic: `${this.#prefix}topics:${topic}` } })
    })
    this.#pending.delete(id)
    this.#socket.send(JSON.stringify({ id, is_cancel: true }))
    return [...found.values()]
  }

  close () {
    this.#socket.removeAllListeners('close')
    this.#socket.close()
  }

  #call (operation) {
    const id = String(this.#next++)
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { done: resolve, fail: reject, stays: false })
      this.#send(id, operation)
    })
  }

  #send (id, operation) {
    this.#socket.send(JSON.stringify({ id, is_cancel: false, ...operation }))
  }

  #take (response) {
    const pending = this.#pending.get(response.id)
    if (pending == null) return
    if (!pending.stays) this.#pending.delete(response.id)
    if (response.error) pending.fail(new Error(response.error))
    else pending.done(response)
  }
}
