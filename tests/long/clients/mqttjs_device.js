// A device over mqtt.js: it comes online, takes one message, and leaves.
//   node mqttjs_device.js URL CA TOKEN DEVICE
const mqtt = require("mqtt");
const fs = require("fs");
const [url, ca, token, device] = process.argv.slice(2);
const topics = `im/v1/org%23app/ann/${device}/`;
const nonce = require("crypto").randomBytes(8).toString("hex");
const state = (online) => JSON.stringify({ v: 1, online, nonce });
const client = mqtt.connect(url, {
  protocolVersion: 5, clientId: `ann:${device}@org%23app`, username: "org%23app/ann", password: token,
  ca: fs.readFileSync(ca), keepalive: 30, reconnectPeriod: 0,
  will: { topic: topics + "state", payload: state(false), qos: 1, retain: true },
});
const say = (leg, payload) => client.publishAsync(topics + leg, payload, { qos: 1, retain: leg === "state" });
const up = (word) => say("up", JSON.stringify({ v: 1, ...word }));
const fail = (error) => { console.error(String(error)); process.exit(1); };
client.on("error", fail);
client.on("connect", async () => {
  try {
    await client.subscribeAsync(topics + "down", { qos: 1 });
    await say("state", state(true));
    await up({ type: "hello", nonce, agent: "mqtt.js", channel: "none", platform: "linux", login: device });
  } catch (error) { fail(error); }
});
client.on("message", async (_topic, payload) => {
  const said = JSON.parse(payload);
  if (said.type !== "message") return;
  try {
    await up({ type: "ack", ids: [said.id], attached: true });
    await up({ type: "taken", ids: [said.id] });
    await say("state", state(false));
    await client.endAsync();
    console.log("TEXT " + said.body.msg);
  } catch (error) { fail(error); }
});
