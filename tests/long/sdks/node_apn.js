// @parse/node-apn as an app's server: says what it read of each answer, `case<TAB>expected<TAB>got`.
const fs = require('fs');
const apn = require('@parse/node-apn');
const { APNS_KEY, WRONG_KEY, CLOUD_CA, CLOUD_PORT, TOKEN, DEAD } = process.env;

function provider(key, keyId) {
    return new apn.Provider({
        token: { key, keyId, teamId: 'DEF123GHIJ' },
        address: 'localhost', port: Number(CLOUD_PORT), ca: [fs.readFileSync(CLOUD_CA)], production: false,
    });
}

async function read(what, expected, from, token, topic) {
    const note = new apn.Notification({ topic, alert: { title: 'hello from node-apn', body: 'hi' } });
    note.expiry = Math.floor(Date.now() / 1000) + 3600;
    const { sent, failed } = await from.send(note, token);
    const fault = failed[0];
    const got = sent.length === 1 && sent[0].device === token ? 'sent'
        : fault.error ? `error ${fault.error.message}` : `${fault.status} ${fault.response.reason}`;
    console.log(`${what}\t${expected}\t${got}`);
}

(async () => {
    const right = provider(APNS_KEY, 'ABC123DEFG');
    const wrong = provider(WRONG_KEY, 'ABC123DEFG');
    await read('a living token', 'sent', right, TOKEN, 'com.acme.demo');
    await read('a dead token', '410 Unregistered', right, DEAD, 'com.acme.demo');
    await read('what is no token', '400 BadDeviceToken', right, 'abcd', 'com.acme.demo');
    await read('a token never given out', '400 BadDeviceToken', right, 'ab'.repeat(32), 'com.acme.demo');
    await read('another app', '400 TopicDisallowed', right, TOKEN, 'com.acme.other');
    await read('a wrong key', '403 InvalidProviderToken', wrong, TOKEN, 'com.acme.demo');
    const many = new apn.Notification({ topic: 'com.acme.demo', alert: { title: 'hello from node-apn-batch', body: 'hi' } });
    const { sent, failed } = await right.send(many, [TOKEN, DEAD]);
    const got = [...sent.map(() => 'sent'), ...failed.map((each) => `${each.status} ${each.response?.reason}`)].join(', ');
    console.log(`a living and a dead one at once\tsent, 410 Unregistered\t${got}`);
    right.shutdown();
    wrong.shutdown();
    setTimeout(() => process.exit(0), 500).unref();
})();
