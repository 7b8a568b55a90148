// apns2 as an app's server: says what it read of each answer, `case<TAB>expected<TAB>got`.
const fs = require('fs');
const tls = require('tls');
const { APNS_KEY, WRONG_KEY, CLOUD_CA, CLOUD_PORT, TOKEN, DEAD } = process.env;

// The SDK takes another host, but always its port 443: whatever it opens ends at the clouds.
const connect = tls.connect;
const ca = fs.readFileSync(CLOUD_CA);
tls.connect = (options, heard) => connect({ ...options, port: Number(CLOUD_PORT), ca }, heard);

const { ApnsClient, Notification } = require('apns2');

function client(key, topic) {
    return new ApnsClient({
        team: 'DEF123GHIJ', keyId: 'ABC123DEFG', signingKey: fs.readFileSync(key, 'utf8'),
        defaultTopic: topic, host: 'localhost', keepAlive: false,
    });
}

const note = (token, title) => new Notification(token, {
    alert: { title, body: 'hi' }, expiration: Math.floor(Date.now() / 1000) + 3600,
});
const refusal = (fault) => fault.reason ? `${fault.statusCode} ${fault.reason}` : String(fault);

async function read(what, expected, from, token) {
    const got = await from.send(note(token, 'hello from apns2')).then(() => 'sent', refusal);
    console.log(`${what}\t${expected}\t${got}`);
}

(async () => {
    const right = client(APNS_KEY, 'com.acme.demo');
    await read('a living token', 'sent', right, TOKEN);
    await read('a dead token', '410 Unregistered', right, DEAD);
    await read('what is no token', '400 BadDeviceToken', right, 'abcd');
    await read('a token never given out', '400 BadDeviceToken', right, 'ab'.repeat(32));
    await read('another app', '400 TopicDisallowed', client(APNS_KEY, 'com.acme.other'), TOKEN);
    await read('a wrong key', '403 InvalidProviderToken', client(WRONG_KEY, 'com.acme.demo'), TOKEN);
    const many = await right.sendMany([TOKEN, DEAD].map((token) => note(token, 'hello from apns2-batch')));
    const got = many.map((each) => each.error ? refusal(each.error) : 'sent').join(', ');
    console.log(`a living and a dead one at once\tsent, 410 Unregistered\t${got}`);
    process.exit(0);
})();
