//! A device over rumqttc's own client: it comes online, takes one message, and leaves.

use foreign::{Device, Failed};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, LastWill, Packet};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    tokio::time::timeout(Duration::from_secs(30), run()).await?
}

async fn run() -> Result<(), Failed> {
    let device = Device::of_arguments()?;
    let mut options = MqttOptions::new(device.client_id(), "localhost", device.port);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(device.tls.clone())));
    options.set_credentials("org%23app/ann", device.token.as_str());
    options.set_keep_alive(Duration::from_secs(30));
    options.set_last_will(LastWill::new(device.topic("state"), device.state(false), QoS::AtLeastOnce, true, None));
    let (client, mut events) = AsyncClient::new(options, 16);
    let (mut text, mut owed) = (None, 0);
    loop {
        match events.poll().await? {
            Event::Incoming(Packet::ConnAck(ack)) if ack.code == ConnectReturnCode::Success => {
                client.subscribe(device.topic("down"), QoS::AtLeastOnce).await?;
            }
            Event::Incoming(Packet::SubAck(_)) => {
                client.publish(device.topic("state"), QoS::AtLeastOnce, true, device.state(true)).await?;
                client.publish(device.topic("up"), QoS::AtLeastOnce, false, device.hello("rumqttc")).await?;
                owed += 2;
            }
            Event::Incoming(Packet::Publish(publish)) => {
                let Some((words, said)) = Device::taken(&publish.payload)? else { continue };
                text = Some(said);
                for word in words {
                    client.publish(device.topic("up"), QoS::AtLeastOnce, false, word).await?;
                    owed += 1;
                }
                client.publish(device.topic("state"), QoS::AtLeastOnce, true, device.state(false)).await?;
                owed += 1;
            }
            Event::Incoming(Packet::PubAck(_)) => {
                owed -= 1;
                if owed == 0 && text.is_some() {
                    client.disconnect().await?;
                }
            }
            Event::Outgoing(Outgoing::Disconnect) => {
                println!("TEXT {}", text.unwrap_or_default());
                return Ok(());
            }
            _ => {}
        }
    }
}
