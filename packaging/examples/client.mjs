#!/usr/bin/env node
// Reads messages from the agent's control socket and takes each once it is printed.
//
// Only what Node.js brings along: HTTP over a Unix socket. After a break the stream goes on behind the last
// message that was taken.
//
//     client.mjs [SOCKET]

import http from "node:http";
import readline from "node:readline";

const socketPath = process.argv[2] ?? "/run/impush/control.sock";

function request(method, path, body) {
    return new Promise((resolve, reject) => {
        const headers = { "content-type": "application/json" };
        const call = http.request({ socketPath, method, path, headers }, resolve);
        call.on("error", reject);
        call.end(body === undefined ? undefined : JSON.stringify(body));
    });
}

async function ask(method, path, body) {
    const response = await request(method, path, body);
    let text = "";
    for await (const chunk of response) text += chunk;
    const answer = JSON.parse(text);
    if (response.statusCode >= 400) throw new Error(answer.error.message);
    return answer;
}

const status = await ask("GET", "/v1/status");
console.log(`${status.state}, user ${status.user}, channel ${status.channel}`);
let last = 0;
for (;;) {
    try {
        const stream = await request("GET", `/v1/messages?after=${last}&stream=true`);
        for await (const line of readline.createInterface({ input: stream })) {
            const { number, message, ...told } = JSON.parse(line);
            if (!message) {
                // The login ended, or messages were given up for want of room.
                console.error(`told: ${JSON.stringify(told)}`);
                if (told.end) last = 0;
                continue;
            }
            console.log(`${message.from}: ${JSON.stringify(message.body)}`);
            await ask("POST", "/v1/messages/ack", { ids: [message.id] });
            last = number;
        }
    } catch (error) {
        console.error(`the agent is away (${error.message}); trying again`);
    }
    await new Promise((done) => setTimeout(done, 1000));
}
