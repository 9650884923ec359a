/**
 * Who wants to hear of events, and how they are.
 */
import { randomBytes, randomUUID } from "node:crypto"
import { Context, DateTime, Effect, Layer, Option, Schema } from "effect"
import type { SqlError } from "effect/sql"
import { SqlClient } from "effect/sql"
import { Secret } from "./signature.ts"

const Address = Schema.String.check(
  Schema.makeFilter((url) => (/^https?:$/.test(URL.parse(url)?.protocol ?? "") ? undefined : "Expected an http(s) URL"))
)

/** The body of `POST /subscribers`. Without a secret, one is made. */
export const NewSubscriber = Schema.Struct({ url: Address, secret: Schema.optionalKey(Secret) })
export type NewSubscriber = typeof NewSubscriber.Type

export interface Subscriber {
  readonly id: string
  readonly url: string
  readonly secret: string
  readonly since: string
  /** What went wrong last; none since something was delivered. */
  readonly problem: string | null
}

type Query<A> = Effect.Effect<A, SqlError.SqlError>

export class Subscribers extends Context.Service<
  Subscribers,
  {
    readonly add: (subscriber: NewSubscriber) => Query<Subscriber>
    readonly list: Query<ReadonlyArray<Subscriber>>
    readonly find: (id: string) => Query<Option.Option<Subscriber>>
    readonly remove: (id: string) => Query<boolean>
    /** Notes what is wrong with a subscriber, or that all is well. */
    readonly setProblem: (subscriber: Subscriber, problem: string | null) => Query<void>
  }
>()("webhooks/Subscribers") {
  static readonly layer = Layer.effect(
    Subscribers,
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* sql`CREATE TABLE IF NOT EXISTS subscribers (
        id TEXT PRIMARY KEY, url TEXT NOT NULL, secret TEXT NOT NULL, since TEXT NOT NULL, problem TEXT)`
      return Subscribers.of({
        add: Effect.fnUntraced(function* ({ secret = `whsec_${randomBytes(32).toString("base64")}`, url }) {
          const since = DateTime.formatIso(yield* DateTime.now)
          const subscriber: Subscriber = { id: randomUUID(), url, secret, since, problem: null }
          yield* sql`INSERT INTO subscribers ${sql.insert({ ...subscriber })}`
          return subscriber
        }),
        list: sql<Subscriber>`SELECT * FROM subscribers ORDER BY rowid`,
        find: (id) =>
          Effect.map(sql<Subscriber>`SELECT * FROM subscribers WHERE id = ${id}`, ([row]) =>
            Option.fromUndefinedOr(row)
          ),
        remove: (id) =>
          Effect.map(sql`DELETE FROM subscribers WHERE id = ${id} RETURNING id`, (removed) => removed.length > 0),
        setProblem: ({ id, problem: before }, problem) =>
          before === problem
            ? Effect.void
            : Effect.asVoid(sql`UPDATE subscribers SET problem = ${problem} WHERE id = ${id}`)
      })
    })
  )
}
