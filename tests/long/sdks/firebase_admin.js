// firebase-admin as an app's server: says what it read of each answer, `case<TAB>expected<TAB>got`.
const fs = require('fs');
const tls = require('tls');

const { RSA_KEY, WRONG_KEY, CLOUD_CA, CLOUD_PORT, TOKEN, DEAD } = process.env;

// The SDK has no setting for its servers: whatever it opens ends at the clouds.
const connect = tls.connect;
const ca = fs.readFileSync(CLOUD_CA);
tls.connect = (...words) => {
    const options = words.find((word) => word && typeof word === 'object') || {};
    const heard = words.find((word) => typeof word === 'function');
    return connect({ ...options, host: 'localhost', port: Number(CLOUD_PORT), servername: 'localhost', ca }, heard);
};
for (const name of ['http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY']) delete process.env[name];

// A batch goes by HTTP/2, its `:scheme` being `https:` with the colon, which the clouds' HTTP/2 takes for malformed.
const http2 = require('http2');
const open = http2.connect;
http2.connect = (...words) => {
    const session = open(...words);
    const request = session.request.bind(session);
    session.request = (headers, options) => request({ ...headers, ':scheme': 'https' }, options);
    return session;
};

const { cert, initializeApp } = require('firebase-admin/app');
const { getMessaging } = require('firebase-admin/messaging');

function messaging(name, file) {
    const credential = cert({
        type: 'service_account', project_id: 'acme-demo', private_key_id: '0a1b2c3d',
        private_key: fs.readFileSync(file, 'utf8'), client_email: 'push@acme-demo.iam.gserviceaccount.com',
        token_uri: 'https://oauth2.googleapis.com/token',
    });
    return getMessaging(initializeApp({ credential, projectId: 'acme-demo' }, name));
}

const message = (token) => ({ token, notification: { title: 'hello from firebase-admin', body: 'hi' } });

async function read(what, expected, call) {
    const got = await call().then((answer) => answer.includes('/messages/') ? 'sent' : answer, (fault) => fault.code || String(fault));
    console.log(`${what}\t${expected}\t${got}`);
}

(async () => {
    const right = messaging('right', RSA_KEY);
    const wrong = messaging('wrong', WRONG_KEY);
    await read('a living token', 'sent', () => right.send(message(TOKEN)));
    await read('a dead token', 'messaging/registration-token-not-registered', () => right.send(message(DEAD)));
    await read('what is no token', 'messaging/invalid-argument', () => right.send(message('abcd')));
    await read('a wrong key', 'app/invalid-credential', () => wrong.send(message(TOKEN)));
    const unsent = { token: TOKEN, notification: { title: 'hello from firebase-admin-unsent', body: 'hi' } };
    await read('validated only, not shown', 'sent', () => right.send(unsent, true));
    const own = { title: 'hello from firebase-admin-android', body: 'hi' };
    await read('a title for Android alone', 'sent', () => right.send({ token: TOKEN, android: { notification: own } }));
    await read('data for the app alone', 'sent', () => right.send({ token: TOKEN, data: { kind: 'call' } }));
    const many = { tokens: [TOKEN, DEAD], notification: { title: 'hello from firebase-admin-batch', body: 'hi' } };
    await read('a living and a dead one at once', 'sent, messaging/registration-token-not-registered',
        () => right.sendEachForMulticast(many).then(
            ({ responses }) => responses.map((each) => each.success ? 'sent' : each.error.code).join(', ')));
    process.exit(0);
})();
