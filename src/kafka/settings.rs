//! Whether librdkafka takes the settings, asked before anybody waits for a broker: what it refuses no broker cures.

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::BaseProducer;

use super::{Clients, Quiet};
use crate::config::Problem;

const KEY: &str = "kafka.properties";

impl Clients {
    /// Everything that librdkafka refuses: each property by itself, or else what does not go together in a client.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let refused = |(key, value): (&String, &String)| {
            let reason = ClientConfig::new().set(key, value).create_native_config().err()?;
            Some(problem(&format!("{KEY}.{key}"), &reason))
        };
        let alone: Vec<Problem> = self.settings.properties.iter().filter_map(refused).collect();
        if !alone.is_empty() {
            return alone;
        }
        let consumers = [self.frames(1), self.learner("check"), self.follower("check")];
        let producers = [self.answers(), self.samples(), self.heads("check")];
        let made = consumers.iter().map(makes::<BaseConsumer<Quiet>>);
        let mut together: Vec<Problem> = made
            .chain(producers.iter().map(makes::<BaseProducer<Quiet>>))
            .filter_map(Result::err)
            .map(|error| problem(KEY, &error))
            .collect();
        // Clients that share a setting refuse it for the same reason.
        together.dedup();
        together
    }
}

fn makes<C: FromClientConfigAndContext<Quiet>>(config: &ClientConfig) -> KafkaResult<()> {
    config.create_with_context::<_, C>(Quiet).map(drop)
}

fn problem(key: &str, error: &KafkaError) -> Problem {
    let reason = match error {
        KafkaError::ClientConfig(_, reason, ..) | KafkaError::ClientCreation(reason) => reason.clone(),
        other => other.to_string(),
    };
    Problem { key: key.into(), reason, source: "librdkafka".into() }
}
