//! Queues whose receiver sleeps as soon as there is nothing to take. A channel of `crossbeam-channel` carries the messages; its own way
//! of waiting spins and yields the processor several times first, which costs more than it saves where threads outnumber processors: a
//! thread that yields goes to the end of the line, one that sleeps is woken to the front of it. Each queue has one receiver; one receiver
//! may have two queues, of which the first goes first.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::{self, Thread, ThreadId};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvError, SendError, TryRecvError};
pub use crossbeam_channel::{RecvTimeoutError, TrySendError};
use parking_lot::Mutex;

/// So many messages of a first lane may overtake one of the second.
const OVERTAKING_MAX: u32 = 16;

/// Wakes the receiver if it sleeps.
#[derive(Debug, Default)]
struct Bell {
    /// Whether the receiver is about to sleep or asleep.
    sleeping: AtomicBool,
    /// Who slept last; set before `sleeping`.
    receiver: Mutex<Option<Thread>>,
}

impl Bell {
    /// Called when something was sent, or nothing will be any more.
    fn ring(&self) {
        // Pairs with the fence in `Receiver::sleep`: either this thread sees that the other one sleeps, or that one sees what was sent.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Acquire) {
            // Not under the lock: whoever is woken may run at once, and will want it.
            let receiver = self.receiver.lock().clone();
            if let Some(receiver) = receiver {
                receiver.unpark();
            }
        }
    }
}

/// Rings when a sender is gone: the last one to go ends the receiver's waiting.
#[derive(Debug)]
struct Farewell(Arc<Bell>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.ring();
    }
}

/// Where messages are sent.
#[derive(Debug)]
pub struct Sender<T> {
    // Dropped in this order.
    channel: crossbeam_channel::Sender<T>,
    farewell: Farewell,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender { channel: self.channel.clone(), farewell: Farewell(Arc::clone(&self.farewell.0)) }
    }
}

impl<T> Sender<T> {
    /// Queues a message. Fails when there is no receiver any more. Waits only if the queue has a bound.
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.channel.send(message)?;
        self.farewell.0.ring();
        Ok(())
    }

    /// Queues a message unless the queue is full or has no receiver.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.channel.try_send(message)?;
        self.farewell.0.ring();
        Ok(())
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.channel.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.channel.is_empty()
    }
}

/// Where messages arrive, those of each queue in the order in which they were sent. It may move to another thread, but no two threads
/// share it: the bell wakes one.
#[derive(Debug)]
pub struct Receiver<T> {
    channel: crossbeam_channel::Receiver<T>,
    /// The second lane.
    behind: Option<crossbeam_channel::Receiver<T>>,
    /// How many messages in a row were taken from the first lane.
    overtaking: Cell<u32>,
    bell: Arc<Bell>,
    /// The thread that the bell knows.
    sleeper: Cell<Option<ThreadId>>,
}

impl<T> Receiver<T> {
    /// Waits for a message; fails when none waits and there is no sender any more.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.receive(None).map_err(|_| RecvError)
    }

    /// Waits for a message, but not longer than this.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        self.receive(Instant::now().checked_add(timeout))
    }

    /// Waits for a message until then.
    pub fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        self.receive(Some(deadline))
    }

    /// A message, if one waits.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let Some(behind) = &self.behind else { return self.channel.try_recv() };
        let overtaking = self.overtaking.replace(0);
        if overtaking >= OVERTAKING_MAX
            && let Ok(message) = behind.try_recv()
        {
            return Ok(message);
        }
        match self.channel.try_recv() {
            Ok(message) => {
                self.overtaking.set((overtaking + 1).min(OVERTAKING_MAX));
                Ok(message)
            }
            Err(TryRecvError::Empty) => behind.try_recv().map_err(|_| TryRecvError::Empty),
            Err(TryRecvError::Disconnected) => behind.try_recv(),
        }
    }

    /// The messages that wait.
    pub fn try_iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| self.try_recv().ok())
    }

    /// All messages until there is no sender any more.
    pub fn iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| self.recv().ok())
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.channel.len() + self.behind.as_ref().map_or(0, crossbeam_channel::Receiver::len)
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn receive(&self, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
        loop {
            match self.try_recv() {
                Ok(message) => return Ok(message),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {}
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(RecvTimeoutError::Timeout);
            }
            if let Some(found) = self.sleep(deadline) {
                return found.map_err(|_| RecvTimeoutError::Disconnected);
            }
        }
    }

    /// Sleeps until the bell rings or the deadline passes, unless a message has come by the time that senders know of it.
    fn sleep(&self, deadline: Option<Instant>) -> Option<Result<T, RecvError>> {
        let own = thread::current();
        if self.sleeper.get() != Some(own.id()) {
            self.sleeper.set(Some(own.id()));
            *self.bell.receiver.lock() = Some(own);
        }
        self.bell.sleeping.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        let found = match self.try_recv() {
            Ok(message) => Some(Ok(message)),
            Err(TryRecvError::Disconnected) => Some(Err(RecvError)),
            Err(TryRecvError::Empty) => None,
        };
        if found.is_none() {
            match deadline {
                None => thread::park(),
                Some(deadline) => thread::park_timeout(deadline.saturating_duration_since(Instant::now())),
            }
        }
        self.bell.sleeping.store(false, Ordering::Relaxed);
        found
    }
}

/// A queue without a bound: for messages whose number is bounded elsewhere.
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    with(crossbeam_channel::unbounded())
}

/// Two queues without a bound to one receiver: what the first sender sends overtakes what the second one has sent, but for one message in
/// so many: a first lane that is never empty does not silence the second.
pub fn two_lanes<T>() -> (Sender<T>, Sender<T>, Receiver<T>) {
    let (first, mut receiver) = unbounded();
    let (channel, behind) = crossbeam_channel::unbounded();
    receiver.behind = Some(behind);
    let second = Sender { channel, farewell: Farewell(Arc::clone(&receiver.bell)) };
    (first, second, receiver)
}

/// A queue for at most so many messages, and at least one: a receiver that sleeps takes nothing from the sender's hand.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a queue without room wakes nobody");
    with(crossbeam_channel::bounded(capacity))
}

fn with<T>((sender, receiver): (crossbeam_channel::Sender<T>, crossbeam_channel::Receiver<T>)) -> (Sender<T>, Receiver<T>) {
    let bell = Arc::new(Bell::default());
    (
        Sender { channel: sender, farewell: Farewell(Arc::clone(&bell)) },
        Receiver { channel: receiver, behind: None, overtaking: Cell::new(0), bell, sleeper: Cell::new(None) },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn nobody_who_sends_to_a_sleeper_is_missed() {
        let (sender, receiver) = unbounded();
        send_one_by_one([sender.clone(), sender], receiver);
    }

    #[test]
    fn nobody_who_sends_on_either_lane_is_missed() {
        let (first, second, receiver) = two_lanes();
        send_one_by_one([first, second], receiver);
    }

    /// Few messages at a time, so that the receiver sleeps and wakes thousands of times; it has no time limit that would wake it.
    fn send_one_by_one(senders: [Sender<usize>; 2], receiver: Receiver<usize>) {
        let (answers, answered) = unbounded();
        let echo = thread::spawn(move || receiver.iter().for_each(|number| answers.send(number).expect("there is a receiver")));
        for number in 0..20_000 {
            senders[number % 2].send(number).expect("there is a receiver");
            assert_eq!(answered.recv_timeout(PATIENCE), Ok(number));
        }
        drop(senders);
        assert_eq!(answered.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected), "the end is passed on");
        echo.join().expect("the thread ends with its queue");
    }

    #[test]
    fn many_senders_wake_one_receiver() {
        let (sender, receiver) = unbounded();
        let senders: Vec<_> = (0..4_u64)
            .map(|_| {
                let sender = sender.clone();
                thread::spawn(move || (0..5_000_u64).for_each(|number| sender.send(number).expect("there is a receiver")))
            })
            .collect();
        drop(sender);
        let sum: u64 = std::iter::from_fn(|| receiver.recv_timeout(PATIENCE).ok()).sum();
        assert_eq!(sum, 4 * (0..5_000).sum::<u64>());
        senders.into_iter().for_each(|sender| sender.join().expect("a sender ends"));
    }

    #[test]
    fn of_two_lanes_the_first_goes_first_and_the_last_sender_ends_both() {
        for first_ends_first in [true, false] {
            let (first, second, receiver) = two_lanes();
            second.send(1).expect("there is a receiver");
            second.send(2).expect("there is a receiver");
            first.send(3).expect("there is a receiver");
            assert_eq!((receiver.len(), receiver.recv()), (3, Ok(3)));
            let (one, other) = if first_ends_first { (first, second) } else { (second, first) };
            drop(one);
            assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 2]);
            assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty), "there is still a sender");
            other.send(4).expect("there is a receiver");
            drop(other);
            assert_eq!(receiver.recv(), Ok(4));
            assert_eq!(receiver.recv(), Err(RecvError));
        }
    }

    #[test]
    fn a_first_lane_that_is_never_empty_does_not_silence_the_second() {
        let (first, second, receiver) = two_lanes();
        (0..3).for_each(|_| second.send(true).expect("there is a receiver"));
        let mut waited = Vec::new();
        for taken in 0..100 {
            first.send(false).expect("there is a receiver");
            if receiver.try_recv() == Ok(true) {
                waited.push(taken);
            }
        }
        assert_eq!(waited, [16, 33, 50], "one in so many is the second lane's");
    }

    #[test]
    fn a_deadline_and_a_bound_hold() {
        let (sender, receiver) = bounded(1);
        let begun = Instant::now();
        assert_eq!(receiver.recv_timeout(Duration::from_millis(20)), Err(RecvTimeoutError::Timeout));
        assert!(begun.elapsed() >= Duration::from_millis(20), "it waited {:?}", begun.elapsed());
        assert_eq!(receiver.recv_deadline(begun), Err(RecvTimeoutError::Timeout));
        sender.try_send(1).expect("there is room");
        assert!(matches!(sender.try_send(2), Err(TrySendError::Full(2))));
        assert_eq!((receiver.len(), receiver.recv()), (1, Ok(1)));
        drop(receiver);
        assert!(sender.send(3).is_err(), "nobody takes it");
    }
}
