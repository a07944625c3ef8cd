//! For tests: keeps a change from the journal until it is told to it.

use crewline_store::Change;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;

use crate::{Handle, actor::tell, journal::Message};

/// Stands in the journal's place and passes everything on, except for the first change of a kind: that is put aside.
pub(crate) struct Detour;

pub(crate) struct Ways {
    journal: ActorRef<Message>,
    is_put_aside: fn(&Change) -> bool,
    aside: Option<mpsc::UnboundedSender<Message>>,
}

impl Detour {
    /// The journal, and what is put aside.
    pub(crate) async fn of(
        handle: &Handle,
        is_put_aside: fn(&Change) -> bool,
    ) -> (ActorRef<Message>, mpsc::UnboundedReceiver<Message>) {
        let rooms = handle.rooms();
        let journal = rooms.journal.current().unwrap();
        let (aside, kept) = mpsc::unbounded_channel();
        let ways = Ways { journal: journal.clone(), is_put_aside, aside: Some(aside) };
        let (detour, _) = Actor::spawn(None, Self, ways).await.unwrap();
        rooms.journal.enter(detour);
        (journal, kept)
    }
}

impl Actor for Detour {
    type Msg = Message;
    type State = Ways;
    type Arguments = Ways;

    async fn pre_start(&self, _myself: ActorRef<Message>, ways: Ways) -> Result<Ways, ActorProcessingErr> {
        Ok(ways)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        ways: &mut Ways,
    ) -> Result<(), ActorProcessingErr> {
        let is_kept = match &message {
            Message::Record(change, _) => (ways.is_put_aside)(change),
            Message::Committed(_) => false,
        };
        match ways.aside.take_if(|_| is_kept) {
            Some(aside) => aside.send(message).unwrap(),
            None => tell(&ways.journal, message),
        }
        Ok(())
    }
}
