//! Compresses one block of tar into one self-contained frame or gzip member.

use super::ArchiveError;
#[cfg(feature = "zstd")]
use super::limits::MAX_RATIO;
#[cfg(feature = "zstd")]
use super::padding::skippable;
use crate::store::Codec;

#[cfg(feature = "zstd")]
const DEFAULT_LEVEL: i32 = 3;

/// The smallest block in which a longer window makes up for a table less.
#[cfg(feature = "zstd")]
const LONG_BLOCK: usize = 6 << 20;

/// What is different from zstd's own level 3: a window of the whole block instead of a fraction of
/// it, and tables that stay in a core's own cache. One table, for long matches only, is enough
/// where those are what counts: in what is not text, and where files are tiny and much the same as
/// each other. It takes two thirds of the time, for about the bytes that the window saves there.
#[cfg(feature = "zstd")]
fn tuned(files: Files, raw: &[u8]) -> [zstd::zstd_safe::CParameter; 5] {
    use zstd::zstd_safe::CParameter::{ChainLog, HashLog, MinMatch, Strategy, WindowLog};
    use zstd::zstd_safe::Strategy::{ZSTD_dfast, ZSTD_fast};
    // 0: what the level has.
    let (strategy, hash, chain, shortest) = match files {
        Files::Tiny if raw.len() < LONG_BLOCK => (ZSTD_dfast, 16, 16, 0),
        Files::Tiny => (ZSTD_fast, 17, 17, 6),
        Files::Ordinary if is_text(raw) => (ZSTD_dfast, 17, 14, 0),
        Files::Ordinary => (ZSTD_fast, 17, 17, 7),
    };
    [
        WindowLog(24),
        Strategy(strategy),
        HashLog(hash),
        ChainLog(chain),
        MinMatch(shortest),
    ]
}

/// Whether a block looks like text rather than object code, tables or what is compressed already:
/// less than a quarter of it are zeros, and less than a quarter are beyond ASCII.
#[cfg(feature = "zstd")]
fn is_text(raw: &[u8]) -> bool {
    let sample = raw
        .chunks(16 << 10)
        .flat_map(|part| part.iter().take(1 << 10));
    let (mut zeros, mut high, mut all) = (0_usize, 0_usize, 0_usize);
    for byte in sample {
        zeros += usize::from(*byte == 0);
        high += usize::from(*byte >= 0x80);
        all += 1;
    }
    zeros * 4 < all && high * 4 < all
}

/// What a tree is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// A few KiB each.
    Tiny,
    /// More than that.
    Ordinary,
}

impl Files {
    /// By the mean: only the tree decides, so that the same tree gives the same bytes.
    pub(crate) fn of(content: u64, entries: usize) -> Self {
        if content / (entries.max(1) as u64) < 0x2000 {
            Self::Tiny
        } else {
            Self::Ordinary
        }
    }

    /// Bytes of the largest block: beyond it zstd gains next to nothing, and two workers come near
    /// to 64 MiB.
    pub(crate) const fn max_block(self) -> u64 {
        match self {
            Self::Tiny => 11 << 20,
            Self::Ordinary => 8 << 20,
        }
    }
}

/// A reusable compressor; each worker has its own.
pub(crate) enum Compressor {
    Plain,
    #[cfg(feature = "gzip")]
    Gzip(libdeflater::Compressor),
    #[cfg(feature = "zstd")]
    Zstd {
        compressor: Box<zstd::bulk::Compressor<'static>>,
        /// What is tuned for, where nobody asked for a level.
        files: Option<Files>,
    },
}

impl Compressor {
    pub(crate) fn new(
        codec: Codec,
        level: Option<i32>,
        files: Files,
    ) -> Result<Self, ArchiveError> {
        match codec {
            Codec::None => Ok(Self::Plain),
            #[cfg(feature = "gzip")]
            Codec::Gzip => {
                let level = level.unwrap_or(6).clamp(0, 12);
                let level = libdeflater::CompressionLvl::new(level).unwrap_or_default();
                Ok(Self::Gzip(libdeflater::Compressor::new(level)))
            }
            #[cfg(feature = "zstd")]
            Codec::Zstd => {
                let level = level.unwrap_or(DEFAULT_LEVEL);
                let mut compressor =
                    zstd::bulk::Compressor::new(level).map_err(ArchiveError::Write)?;
                // Other tools check archives by it; our own readers use the SHA-256.
                compressor
                    .include_checksum(true)
                    .map_err(ArchiveError::Write)?;
                Ok(Self::Zstd {
                    compressor: Box::new(compressor),
                    files: (level == DEFAULT_LEVEL).then_some(files),
                })
            }
            #[expect(
                clippy::allow_attributes,
                reason = "whether the arm can be reached depends on features"
            )]
            #[allow(unreachable_patterns)]
            other => {
                let _ = (level, files);
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
            Self::Zstd { compressor, files } => {
                for parameter in files.iter().flat_map(|files| tuned(*files, raw)) {
                    compressor
                        .set_parameter(parameter)
                        .map_err(ArchiveError::Write)?;
                }
                out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
                compressor
                    .compress_to_buffer(raw, out)
                    .map_err(ArchiveError::Write)?;
                let least = (raw.len() as u64).div_ceil(MAX_RATIO);
                skippable(out, least.saturating_sub(out.len() as u64));
                Ok(())
            }
        }
    }
}

/// One gzip member. Members one after another are an ordinary gzip file. Without a name and a
/// time: the same block is always the same bytes.
#[cfg(feature = "gzip")]
fn gzip_member(
    deflate: &mut libdeflater::Compressor,
    raw: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), ArchiveError> {
    out.resize(deflate.gzip_compress_bound(raw.len()), 0);
    let length = deflate
        .gzip_compress(raw, out)
        .map_err(|error| ArchiveError::Write(std::io::Error::other(error.to_string())))?;
    out.truncate(length);
    // The bound is far more than most blocks take, and several wait to be written.
    out.shrink_to_fit();
    Ok(())
}
