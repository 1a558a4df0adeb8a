//! Who is in a group and holds what, as the coordinator sees it; and members that join a group only to leave it again.

use std::time::Duration;

use offramp::config::Config;
use offramp::kafka::Clients;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::groups::GroupInfo;

use crate::broker::Broker;
use crate::fleet::until;

const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// Asks the coordinator.
pub struct Groups {
    asker: BaseConsumer,
    /// Group of the frames; the learners' begins with it.
    group: String,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Given by the coordinator, another one after each join.
    pub id: String,
    client: String,
    holds: bool,
}

impl Groups {
    /// About the group of that name on that broker.
    pub fn of(broker: &Broker, group: &str) -> Self {
        let asker = broker.config().set("group.id", broker.unique("asker")).create().expect("a consumer");
        Self { asker, group: group.into() }
    }

    /// Whether the worker of that name is a member of the frames' group.
    pub fn has(&self, worker: &str) -> bool {
        self.members(&self.group).iter().any(|member| member.client == format!("{worker}-frames"))
    }

    /// Whether it holds partitions of the frames.
    pub fn holds(&self, worker: &str) -> bool {
        let is_it = |member: &Member| member.holds && member.client == format!("{worker}-frames");
        self.members(&self.group).iter().any(is_it)
    }

    /// The member that learns for the fleet and the name of its worker, if there is one now.
    pub fn learner(&self) -> Option<(Member, String)> {
        let member = self.members(&format!("{}.learner.", self.group)).into_iter().find(|member| member.holds)?;
        let worker = member.client.strip_suffix("-learner").expect("the client id of a learner").to_owned();
        Some((member, worker))
    }

    /// Members of the group whose name begins so; none while the coordinator is away.
    fn members(&self, name: &str) -> Vec<Member> {
        let Ok(list) = self.asker.fetch_group_list(None, REQUEST_LIMIT) else { return Vec::new() };
        let exact = !name.ends_with('.');
        let is_it = |found: &str| if exact { found == name } else { found.starts_with(name) };
        let members = list.groups().iter().filter(|group| is_it(group.name())).flat_map(GroupInfo::members);
        members
            .map(|member| Member {
                id: member.id().into(),
                client: member.client_id().into(),
                holds: member.assignment().is_some_and(topics_of),
            })
            .collect()
    }
}

/// Whether an assignment names a topic: after two bytes of version the number of topics.
fn topics_of(assignment: &[u8]) -> bool {
    matches!(assignment, [_, _, count @ ..] if count.first_chunk().is_some_and(|count| i32::from_be_bytes(*count) > 0))
}

/// Members join one upon the other and leave in the same order: each is a rebalance, and what they held others read again.
pub fn storm(config: &Config, joins: usize, alive_max: usize) {
    let clients = Clients::new(config.kafka.clone(), config.engine.max_frame_bytes, "passer-by");
    let mut members: std::collections::VecDeque<BaseConsumer> = std::collections::VecDeque::new();
    for _ in 0..joins {
        let member: BaseConsumer = clients.frames(1).create().expect("a consumer");
        member.subscribe(&[&config.topics.frames]).expect("subscribed");
        members.push_back(member);
        until("a passer-by gets partitions", || {
            for member in &members {
                // What it reads it throws away and never commits.
                drop(member.poll(Duration::from_millis(1)));
            }
            members.back().is_some_and(|member| member.assignment().is_ok_and(|held| held.count() > 0))
        });
        if members.len() >= alive_max {
            // It leaves the group when it is dropped.
            members.pop_front();
        }
    }
}
