//! What a server answers to a call, as text.
//!
//! **Invariant:** what is no text is named, and not shown.

use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct McpReply {
    /// The text; the server's words.
    pub text: String,
    /// Whether the server says that it did not succeed.
    pub is_error: bool,
}

pub(super) fn of(result: CallToolResult) -> McpReply {
    let mut parts: Vec<String> = result.content.into_iter().map(part).collect();
    if let (true, Some(structured)) = (parts.is_empty(), &result.structured_content) {
        parts.push(serde_json::to_string_pretty(structured).unwrap_or_default());
    }
    McpReply { text: parts.join("\n"), is_error: result.is_error.unwrap_or(false) }
}

fn part(block: ContentBlock) -> String {
    match block {
        ContentBlock::Text(text) => text.text,
        ContentBlock::Image(image) => not_shown("an image", &image.mime_type, image.data.len()),
        ContentBlock::Audio(audio) => not_shown("a recording", &audio.mime_type, audio.data.len()),
        ContentBlock::Resource(resource) => match resource.resource {
            ResourceContents::TextResourceContents { uri, text, .. } => format!("[{uri}]\n{text}"),
            ResourceContents::BlobResourceContents { uri, mime_type, blob, .. } => {
                not_shown(&uri, mime_type.as_deref().unwrap_or("bytes"), blob.len())
            }
            _ => "[a resource of a kind that is not known]".to_owned(),
        },
        ContentBlock::ResourceLink(link) => format!("[link to {}: {}]", link.name, link.uri),
        _ => "[content of a kind that is not known]".to_owned(),
    }
}

fn not_shown(what: &str, kind: &str, base64: usize) -> String {
    format!("[{what} ({kind}, {} bytes) is not shown]", base64 / 4 * 3)
}
