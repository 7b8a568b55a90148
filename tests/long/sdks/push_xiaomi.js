// push-xiaomi as an app's server: says what it read of each answer, `case<TAB>expected<TAB>got`.
const fs = require('fs');
const Xiaomi = require('push-xiaomi');
const { SECRET_FILE, CLOUD_PORT, TOKEN, DEAD } = process.env;

const sender = (appSecret) => new Xiaomi({
    appSecret, appPkgName: 'com.acme.demo', pushUrl: `https://localhost:${CLOUD_PORT}/v3/message/regid`, timeout: 10000,
});

// It counts whom it reached; a refusal counts nobody, and its code stands in the answer handed out.
function push(from, list, title) {
    return new Promise((done) => {
        let code = 'nothing';
        from.push({
            title, content: 'hi', payload: '{}', list,
            success: (answer) => { code = answer.data.code; },
            fail: (fault) => { code = String(fault); },
            finish: (sum) => done(code === 0 ? `${sum.success_total} sent, ${sum.fail_total} not` : `code ${code}`),
        });
    });
}

async function read(what, expected, from, list, title = 'hello from push-xiaomi') {
    console.log(`${what}\t${expected}\t${await push(from, list, title)}`);
}

(async () => {
    const right = sender(fs.readFileSync(SECRET_FILE, 'utf8'));
    // Its notify_id is the time in milliseconds, for which it has no setting: more than the 2147483647 documented.
    await read('a notify_id out of range', 'code 10017', right, [TOKEN]);
    const toPrimitive = Date.prototype[Symbol.toPrimitive];
    Object.defineProperty(Date.prototype, Symbol.toPrimitive, {
        value(hint) { return hint === 'number' ? Math.floor(this.getTime() / 1000) : toPrimitive.call(this, hint); },
    });
    await read('a living token', '1 sent, 0 not', right, [TOKEN]);
    await read('a dead token', '0 sent, 1 not', right, [DEAD]);
    await read('a living and a dead one at once', '1 sent, 1 not', right, [TOKEN, DEAD], 'hello from push-xiaomi-batch');
    await read('a wrong secret', 'code 21301', sender('d3Jvbmc='), [TOKEN]);
})();
