//! Compresses one block of tar into one self-contained frame or gzip member.

use super::ArchiveError;
use crate::store::Codec;

/// A reusable compressor; each worker has its own.
pub(crate) enum Compressor {
    Plain,
    #[cfg(feature = "gzip")]
    Gzip(flate2::Compress),
    #[cfg(feature = "zstd")]
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

impl Compressor {
    pub(crate) fn new(codec: Codec, level: Option<i32>) -> Result<Self, ArchiveError> {
        match codec {
            Codec::None => Ok(Self::Plain),
            #[cfg(feature = "gzip")]
            Codec::Gzip => {
                let level = level.unwrap_or(6).clamp(0, 9).unsigned_abs();
                Ok(Self::Gzip(flate2::Compress::new(
                    flate2::Compression::new(level),
                    false,
                )))
            }
            #[cfg(feature = "zstd")]
            Codec::Zstd => {
                let mut compressor =
                    zstd::bulk::Compressor::new(level.unwrap_or(3)).map_err(ArchiveError::Write)?;
                // Other tools check archives by it; our own readers use the SHA-256.
                compressor
                    .include_checksum(true)
                    .map_err(ArchiveError::Write)?;
                Ok(Self::Zstd(Box::new(compressor)))
            }
            #[expect(
                clippy::allow_attributes,
                reason = "whether the arm can be reached depends on features"
            )]
            #[allow(unreachable_patterns)]
            other => {
                let _ = level;
                Err(ArchiveError::Codec { codec: other })
            }
        }
    }

    /// Compresses a block; `out` is overwritten.
    pub(crate) fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), ArchiveError> {
        out.clear();
        match self {
            Self::Plain => {
                out.extend_from_slice(raw);
                Ok(())
            }
            #[cfg(feature = "gzip")]
            Self::Gzip(deflate) => gzip_member(deflate, raw, out),
            #[cfg(feature = "zstd")]
            Self::Zstd(compressor) => {
                out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
                compressor
                    .compress_to_buffer(raw, out)
                    .map(drop)
                    .map_err(ArchiveError::Write)
            }
        }
    }
}

/// One gzip member. Members one after another are an ordinary gzip file.
#[cfg(feature = "gzip")]
fn gzip_member(
    deflate: &mut flate2::Compress,
    raw: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), ArchiveError> {
    use flate2::{FlushCompress, Status};

    // No name, no time: the same block is always the same bytes. 255: unknown system.
    out.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    deflate.reset();
    out.reserve(raw.len() / 2 + 64);
    loop {
        let done = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
        let status = deflate
            .compress_vec(&raw[done.min(raw.len())..], out, FlushCompress::Finish)
            .map_err(|error| ArchiveError::Write(error.into()))?;
        if status == Status::StreamEnd {
            break;
        }
        out.reserve(raw.len() / 4 + 64);
    }
    let mut crc = flate2::Crc::new();
    crc.update(raw);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
    Ok(())
}
