// Sends one of each call and a burst through the Segment SDK for Node.js, then says which message
// ids the SDK made. Its arguments are those of client.py.
//
//   node client.mjs HOST WRITE_KEY USER BURST

import { Analytics } from '@segment/analytics-node'

const [host, writeKey, userId, burst] = process.argv.slice(2)
const DELIVERY_MS_MAX = 150_000

const messageIds = []
const errors = []
const analytics = new Analytics({ writeKey, host })
analytics.on('error', (error) => errors.push(`${error.code}: ${error.reason}`))

// The SDK calls back when an event is delivered or given up.
const noted = (error, context) => {
  if (error) errors.push(String(error))
  if (context) messageIds.push(context.event.messageId)
}

analytics.identify({ userId, traits: { email: `${userId}@example.com`, plan: 'pro' } }, noted)
analytics.track({ userId, event: 'Order Completed', properties: { total: 12.5 } }, noted)
analytics.page({ userId, category: 'Docs', name: 'Start', properties: { path: '/' } }, noted)
analytics.screen({ userId, name: 'Home', properties: { variant: 'b' } }, noted)
analytics.group({ userId, groupId: 'acme', traits: { employees: 7 } }, noted)
analytics.alias({ userId, previousId: `${userId}-before` }, noted)
for (let n = 0; n < Number(burst); n += 1) {
  analytics.track({ userId, event: 'Burst', properties: { n } }, noted)
}

await analytics.closeAndFlush({ timeout: DELIVERY_MS_MAX })
console.log(JSON.stringify({ messageIds, errors }))
