//! The options about metadata contexts.
//!
//! Invariant: what is selected is so for one export name, as the client wrote it. Each further
//! selection, even one that fails, and each upgrade to TLS makes it void.

use super::{Handshake, reply_of};
use crate::catalog::{ExportCatalog, OpenError};
use crate::contexts::{Contexts, listed, names_bitmaps};
use crate::haggling::{MetaRequest, OptionReplies};
use crate::request::Dialect;
use crate::wire::option_reply;

/// What a client selected.
pub(super) struct Selection {
    /// The export, by the name that the client gave.
    export: String,
    contexts: Contexts,
}

impl Selection {
    /// What is selected for the export of that name.
    pub(super) fn of(selection: Option<&Self>, export: &str) -> Contexts {
        let own = selection.filter(|selection| selection.export == export);
        own.map(|selection| selection.contexts.clone())
            .unwrap_or_default()
    }
}

impl<C: ExportCatalog> Handshake<'_, C> {
    /// The bitmaps of the export that a client means; of an export that there is, none unless they
    /// are wanted.
    async fn bitmaps(&mut self, name: &str, are_wanted: bool) -> Result<Vec<String>, OpenError> {
        let export = self.find(name).await?;
        if !are_wanted {
            return Ok(Vec::new());
        }
        let catalog = self.catalog;
        self.catalog(catalog.bitmaps(&export.name)).await
    }

    pub(super) async fn list_contexts(
        &mut self,
        mut replies: OptionReplies,
        data: &[u8],
    ) -> Vec<u8> {
        let request = match self.meta_request(data) {
            Ok(request) => request,
            Err(reason) => return replies.error(option_reply::ERR_INVALID, reason),
        };
        let queries = &request.queries;
        let are_wanted = queries.is_empty() || names_bitmaps(queries);
        match self.bitmaps(request.name, are_wanted).await {
            Ok(bitmaps) => {
                for context in listed(queries, bitmaps) {
                    replies.context(0, &context);
                }
                replies.ack()
            }
            Err(error) => replies.error(reply_of(&error), &error.to_string()),
        }
    }

    pub(super) async fn set_contexts(
        &mut self,
        mut replies: OptionReplies,
        data: &[u8],
    ) -> Vec<u8> {
        // Whatever was selected before is so no more, even if this fails.
        self.state.selection = None;
        let request = match self.meta_request(data) {
            Ok(request) => request,
            Err(reason) => return replies.error(option_reply::ERR_INVALID, reason),
        };
        let are_wanted = names_bitmaps(&request.queries);
        let bitmaps = match self.bitmaps(request.name, are_wanted).await {
            Ok(bitmaps) => bitmaps,
            Err(error) => return replies.error(reply_of(&error), &error.to_string()),
        };
        let contexts = match Contexts::select(&request.queries, &bitmaps) {
            Ok(contexts) => contexts,
            Err(error) => return replies.error(option_reply::ERR_TOO_BIG, &error.to_string()),
        };
        for (id, context) in contexts.of(contexts.ids()) {
            replies.context(id, context);
        }
        self.state.selection = Some(Selection {
            export: request.name.to_owned(),
            contexts,
        });
        replies.ack()
    }

    /// Reads either option's data; the error says why not.
    fn meta_request<'d>(&self, data: &'d [u8]) -> Result<MetaRequest<'d>, &'static str> {
        let request = MetaRequest::parse(data).ok_or("malformed option")?;
        if self.state.dialect == Dialect::Simple {
            return Err("negotiate structured replies or extended headers first");
        }
        Ok(request)
    }
}
