//! Who sends the answers: the Raft thread a few of them by itself; of many, the part whose connections were last served on other processors
//! by a thread that runs there. An answer wakes the client's thread, or the network's, and waking somebody on the own processor costs a
//! fraction of an interrupt on another one. So a burst costs one interrupt for each processor and not one for each connection, and on a
//! machine with many processors the Raft thread is not the only one that sends.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::server::mailbox::{Receiver, Sender, unbounded};
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use super::connection::Connection;
use super::event::Reply;
use super::run::{join_thread, spawn};
use crate::error::Result;

/// Fewer answers than this leave from the Raft thread at once: nobody is woken for them.
const FEW: usize = 8;
/// Most threads.
const THREADS_MAX: usize = 8;

type Replies = Vec<Reply<Arc<Connection>>>;

/// The threads, and the queues that lead to them.
pub(super) struct Responders {
    queues: Vec<Sender<Replies>>,
    threads: Vec<JoinHandle<()>>,
}

impl Responders {
    /// Starts a thread for each processor, or for each group of processors if there are many; none if there is one processor.
    pub(super) fn start() -> Result<Responders> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let mut responders = Responders { queues: Vec::new(), threads: Vec::new() };
        let count = if processors > 1 { processors.min(THREADS_MAX) } else { 0 };
        for number in 0..count {
            let (queue, replies) = unbounded();
            responders.queues.push(queue);
            responders.threads.push(spawn("responder", move || run(number, count, &replies))?);
        }
        Ok(responders)
    }

    /// Brings all answers on their way. Never waits.
    pub(super) fn answer(&self, replies: Replies) {
        let count = self.queues.len();
        if replies.len() < FEW || count == 0 {
            return respond(replies);
        }
        let own = sched_getcpu() % count;
        let mut parts: [Replies; THREADS_MAX] = Default::default();
        replies.into_iter().for_each(|reply| parts[reply.client.processor() % count].push(reply));
        let here = std::mem::take(&mut parts[own]);
        for (part, queue) in parts.into_iter().zip(&self.queues) {
            if part.len() < FEW {
                respond(part);
            } else if let Err(returned) = queue.send(part) {
                respond(returned.0);
            }
        }
        respond(here);
    }

    /// Sends what is still queued, and ends the threads.
    pub(super) fn stop(self) {
        drop(self.queues);
        self.threads.into_iter().for_each(join_thread);
    }
}

fn run(number: usize, count: usize, replies: &Receiver<Replies>) {
    // Without the permission, or on processors that this process is not to use, answers leave from anywhere.
    if let Ok(allowed) = sched_getaffinity(None) {
        let mut own = CpuSet::new();
        (number..CpuSet::MAX_CPU).step_by(count).filter(|processor| allowed.is_set(*processor)).for_each(|processor| own.set(processor));
        if own.count() > 0 {
            let _ = sched_setaffinity(None, &own);
        }
    }
    replies.iter().for_each(respond);
}

/// Hands each connection all its answers at once, so that they leave with one send.
fn respond(mut replies: Replies) {
    replies.sort_by_key(|reply| Arc::as_ptr(&reply.client) as usize);
    let mut replies = replies.into_iter().peekable();
    while let Some(Reply { client, slot, outcome }) = replies.next() {
        let more = std::iter::from_fn(|| replies.next_if(|next| Arc::ptr_eq(&next.client, &client)));
        client.complete(std::iter::once((slot, outcome)).chain(more.map(|reply| (reply.slot, reply.outcome))));
    }
}
