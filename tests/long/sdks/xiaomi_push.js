// xiaomi-push as an app's server: says what it read of each answer, `case<TAB>expected<TAB>got`.
const fs = require('fs');
const { Notification, Message } = require('xiaomi-push');
const { SECRET_FILE, CLOUD_PORT, TOKEN, DEAD } = process.env;

function sender(secret) {
    const made = new Notification({ production: true, appSecret: secret });
    // The SDK has no setting for its server.
    made.apis.regid = made.apis.regid.replace('https://api.xmpush.xiaomi.com', `https://localhost:${CLOUD_PORT}`);
    return made;
}

function message(title, app) {
    return new Message().title(title).description('hi').payload('{}').passThrough(0).notifyType(-1)
        .restrictedPackageName(app).timeToLive(3600000);
}

// It makes an Error of the whole answer where the code is not 0, and hands the answer out where it is.
async function read(what, expected, from, token, title = 'hello from xiaomi-push', app = 'com.acme.demo') {
    const got = await from.sendToRegid(token, message(title, app)).then(
        ({ data }) => (data.id ? 'taken' : 'no id') + (data.bad_regids ? `, bad: ${data.bad_regids}` : ''),
        (fault) => { try { return `code ${JSON.parse(fault.message).code}`; } catch { return String(fault); } });
    console.log(`${what}\t${expected}\t${got}`.replaceAll(DEAD, 'the dead one'));
}

(async () => {
    const right = sender(fs.readFileSync(SECRET_FILE, 'utf8'));
    await read('a living token', 'taken', right, TOKEN);
    await read('a dead token', `taken, bad: ${DEAD}`, right, DEAD);
    await read('what is no token', 'taken, bad: abcd', right, 'abcd');
    await read('a living and a dead one at once', `taken, bad: ${DEAD}`, right, [TOKEN, DEAD], 'hello from xiaomi-push-batch');
    await read('another app', 'code 22022', right, TOKEN, 'no hello', 'com.acme.other');
    await read('a wrong secret', 'code 21301', sender('d3Jvbmc='), TOKEN);
})();
