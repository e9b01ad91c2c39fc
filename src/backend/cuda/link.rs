//! Kernels by linking: a source is a few constants, the parts that the kernel calls, and the kernel; the files lie in
//! `shaders/cuda`. NVRTC compiles them for the device that is there.

use super::super::CacheType;
use crate::quant::panels::Layout;
use std::fmt::Write;

macro_rules! shader {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/cuda/", $path))
    };
}

/// The only header that a source includes by name, so that tests can put another in its place.
pub const INTRINSICS: (&str, &str) = ("intrinsics.cuh", shader!("intrinsics.cuh"));

/// Queries of an attention tile; fewer for large heads, because of shared memory.
pub(super) const fn max_queries(head_dim: usize) -> usize {
    if head_dim <= 128 { 16 } else { 8 }
}

/// Largest head whose attention tile fits into the 48 KiB of shared memory that every device has.
pub(super) const MAX_HEAD_DIM: usize = 256;

/// Threads of most blocks.
pub(super) const THREADS: u32 = 256;

/// How products of bytes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dots {
    /// By matrix instructions; compute capability 8.0.
    Mma,
    /// By dot products of four bytes; compute capability 6.1.
    Dp4a,
}

/// A kernel and everything that it is specialised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "one a file in shaders/cuda")]
pub enum Kernel {
    Embed {
        layout: Layout,
    },
    Norm,
    Pack,
    /// `tiles` of 8 tokens: 1, 2 or 4.
    MatmulFew {
        layout: Layout,
        dots: Dots,
        tiles: u8,
    },
    Matmul {
        layout: Layout,
        dots: Dots,
    },
    /// `tokens` of 1 or 8; float layouts only.
    MatmulFloat {
        layout: Layout,
        tokens: u8,
    },
    /// `matmul_few` for pairs of a row and an expert.
    Experts {
        layout: Layout,
        dots: Dots,
    },
    /// The same for float layouts; `tokens` of 1 or 8.
    ExpertsFloat {
        layout: Layout,
        tokens: u8,
    },
    Angles,
    RopeAppend {
        cells: CacheType,
        head_dim: u16,
    },
    /// `queries` of a tile: a power of two up to 16.
    Attend {
        cells: CacheType,
        queries: u8,
        head_dim: u16,
    },
    Combine,
    ShortConv,
    LinearRows,
    LinearAttend,
    GatedNorm,
    Gate,
    Route,
    SortExperts,
    SumExperts,
    SelectBlocks,
    Select,
    ReadCells {
        cells: CacheType,
        head_dim: u16,
    },
    MoveCells,
}

impl Kernel {
    /// The file in `shaders/cuda`, without extension; its function has `_kernel` behind that.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Embed { .. } => "embed",
            Kernel::Norm => "norm",
            Kernel::Pack => "pack",
            Kernel::MatmulFew { .. } | Kernel::Experts { .. } => "matmul_few",
            Kernel::Matmul { .. } => "matmul",
            Kernel::MatmulFloat { .. } | Kernel::ExpertsFloat { .. } => "matmul_float",
            Kernel::Angles => "angles",
            Kernel::RopeAppend { .. } => "rope_append",
            Kernel::Attend { .. } => "attend",
            Kernel::Combine => "combine",
            Kernel::ShortConv => "short_conv",
            Kernel::LinearRows => "linear_rows",
            Kernel::LinearAttend => "linear_attend",
            Kernel::GatedNorm => "gated_norm",
            Kernel::Gate => "gate",
            Kernel::Route => "route",
            Kernel::SortExperts => "sort_experts",
            Kernel::SumExperts => "sum_experts",
            Kernel::SelectBlocks => "select_blocks",
            Kernel::Select => "select",
            Kernel::ReadCells { .. } => "read_cells",
            Kernel::MoveCells => "move_cells",
        }
    }

    /// Threads of a block. A kernel that needs a certain number has it as a constant in its file, too.
    pub(super) fn threads(self) -> u32 {
        match self {
            Kernel::RopeAppend { .. } => 64,
            Kernel::Attend { .. } | Kernel::Embed { .. } | Kernel::Angles => 128,
            _ => THREADS,
        }
    }

    /// Every legal combination (a few head sizes stand for all).
    pub fn all() -> Vec<Kernel> {
        let mut all = vec![Kernel::Norm, Kernel::Pack, Kernel::Angles, Kernel::Combine, Kernel::Gate];
        all.extend([Kernel::ShortConv, Kernel::LinearRows, Kernel::LinearAttend, Kernel::GatedNorm]);
        all.extend([Kernel::Route, Kernel::SortExperts, Kernel::SumExperts]);
        all.extend([Kernel::SelectBlocks, Kernel::Select, Kernel::MoveCells]);
        for layout in Layout::ALL {
            all.push(Kernel::Embed { layout });
            if is_float(layout) {
                all.extend([1, 8].map(|tokens| Kernel::MatmulFloat { layout, tokens }));
                all.extend([1, 8].map(|tokens| Kernel::ExpertsFloat { layout, tokens }));
                continue;
            }
            for dots in [Dots::Mma, Dots::Dp4a] {
                all.extend([1, 2, 4].map(|tiles| Kernel::MatmulFew { layout, dots, tiles }));
                all.extend([Kernel::Matmul { layout, dots }, Kernel::Experts { layout, dots }]);
            }
        }
        for cells in [CacheType::F32, CacheType::F16, CacheType::Q8_0] {
            for head_dim in [32, 64, 96, 128, 256] {
                all.extend([Kernel::RopeAppend { cells, head_dim }, Kernel::ReadCells { cells, head_dim }]);
                let queries = [1, 2, 4, 8, 16].into_iter().filter(|&q| q <= max_queries(head_dim.into()));
                all.extend(queries.map(|q| Kernel::Attend { cells, queries: q as u8, head_dim }));
            }
        }
        all
    }

    /// The linked source.
    pub fn source(self) -> String {
        let mut source = format!("#include \"{}\"\n", INTRINSICS.0);
        let mut constant = |name: &str, value: u32| _ = writeln!(source, "constexpr unsigned {name} = {value};");
        match self {
            Kernel::MatmulFew { tiles, .. } => constant("TILES", tiles.into()),
            Kernel::Experts { .. } => constant("TILES", 1),
            Kernel::MatmulFloat { tokens, .. } | Kernel::ExpertsFloat { tokens, .. } => {
                constant("TOKENS", tokens.into());
            }
            Kernel::RopeAppend { head_dim, .. } | Kernel::ReadCells { head_dim, .. } => {
                constant("DIM", head_dim.into())
            }
            Kernel::Attend { queries, head_dim, .. } => {
                constant("DIM", head_dim.into());
                constant("QUERIES", queries.into());
            }
            _ => {}
        }
        let mut parts = vec![shader!("warp.cuh"), shader!("step.cuh"), shader!("operand.cuh")];
        if let Some(layout) = self.layout() {
            if let Some(table) = layout.table() {
                let word = |b: &[i8; 4]| u32::from_le_bytes(b.map(|v| v as u8));
                let words =
                    table.values().as_chunks::<4>().0.iter().map(|b| format!("{}u", word(b))).collect::<Vec<_>>();
                _ = writeln!(source, "constexpr unsigned VALUES[4] = {{{}}};", words.join(", "));
                parts.push(shader!("layouts/table.cuh"));
            }
            parts.push(layout_part(layout));
            parts.push(if is_float(layout) { shader!("layouts/floats.cuh") } else { shader!("layouts/codes.cuh") });
        }
        match self {
            Kernel::MatmulFew { dots, .. } | Kernel::Matmul { dots, .. } | Kernel::Experts { dots, .. } => {
                parts.push(if dots == Dots::Mma { shader!("dots/mma.cu") } else { shader!("dots/dp4a.cu") });
                parts.extend([self.epilogue(), shader!("tile.cuh")]);
            }
            Kernel::MatmulFloat { .. } | Kernel::ExpertsFloat { .. } => parts.push(self.epilogue()),
            Kernel::RopeAppend { cells, .. } | Kernel::Attend { cells, .. } | Kernel::ReadCells { cells, .. } => parts
                .push(match cells {
                    CacheType::F32 => shader!("cells/f32.cu"),
                    CacheType::F16 => shader!("cells/f16.cu"),
                    CacheType::Q8_0 => shader!("cells/q8_0.cu"),
                }),
            _ => {}
        }
        parts.push(match self {
            Kernel::Embed { .. } => shader!("embed.cu"),
            Kernel::Norm => shader!("norm.cu"),
            Kernel::Pack => shader!("pack.cu"),
            Kernel::MatmulFew { .. } | Kernel::Experts { .. } => shader!("matmul_few.cu"),
            Kernel::Matmul { .. } => shader!("matmul.cu"),
            Kernel::MatmulFloat { .. } | Kernel::ExpertsFloat { .. } => shader!("matmul_float.cu"),
            Kernel::Angles => shader!("angles.cu"),
            Kernel::RopeAppend { .. } => shader!("rope_append.cu"),
            Kernel::Attend { .. } => shader!("attend.cu"),
            Kernel::Combine => shader!("combine.cu"),
            Kernel::ShortConv => shader!("short_conv.cu"),
            Kernel::LinearRows => shader!("linear_rows.cu"),
            Kernel::LinearAttend => shader!("linear_attend.cu"),
            Kernel::GatedNorm => shader!("gated_norm.cu"),
            Kernel::Gate => shader!("gate.cu"),
            Kernel::Route => shader!("route.cu"),
            Kernel::SortExperts => shader!("sort_experts.cu"),
            Kernel::SumExperts => shader!("sum_experts.cu"),
            Kernel::SelectBlocks => shader!("select_blocks.cu"),
            Kernel::Select => shader!("select.cu"),
            Kernel::ReadCells { .. } => shader!("read_cells.cu"),
            Kernel::MoveCells => shader!("move_cells.cu"),
        });
        source + &parts.join("\n")
    }

    fn layout(self) -> Option<Layout> {
        match self {
            Kernel::Embed { layout }
            | Kernel::MatmulFew { layout, .. }
            | Kernel::Matmul { layout, .. }
            | Kernel::MatmulFloat { layout, .. }
            | Kernel::Experts { layout, .. }
            | Kernel::ExpertsFloat { layout, .. } => Some(layout),
            _ => None,
        }
    }

    /// What becomes of a product's results.
    fn epilogue(self) -> &'static str {
        match self {
            Kernel::Experts { .. } | Kernel::ExpertsFloat { .. } => shader!("experts.cuh"),
            _ => shader!("epilogue.cuh"),
        }
    }
}

/// Whether weights of this layout are plain floats, which have a product of their own.
pub(super) const fn is_float(layout: Layout) -> bool {
    matches!(layout, Layout::F32 | Layout::F16 | Layout::Bf16)
}

fn layout_part(layout: Layout) -> &'static str {
    match layout {
        Layout::F32 => shader!("layouts/f32.cu"),
        Layout::F16 => shader!("layouts/f16.cu"),
        Layout::Bf16 => shader!("layouts/bf16.cu"),
        Layout::U4 => shader!("layouts/u4.cu"),
        Layout::U5 => shader!("layouts/u5.cu"),
        Layout::U6 => shader!("layouts/u6.cu"),
        Layout::U3 => shader!("layouts/u3.cu"),
        Layout::U2 => shader!("layouts/u2.cu"),
        Layout::I8 => shader!("layouts/i8.cu"),
        Layout::T3(_) => shader!("layouts/t3.cu"),
        Layout::T4(_) => shader!("layouts/t4.cu"),
        Layout::Nvfp4 => shader!("layouts/nvfp4.cu"),
    }
}
