//! Shaders by linking: a kernel's source is a few `const` lines, one snippet of each kind that it calls, and the kernel.
//!
//! WGSL does not care about the order of declarations, so the parts are just put behind one another; there is no
//! preprocessor. Bindings stand in the WGSL only; pipelines take their layout from it.

use super::super::CacheType;
use crate::quant::panels::Layout;
use std::fmt::Write;

macro_rules! shader {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path, ".wgsl"))
    };
}

/// Queries of an attention tile.
pub(super) const MAX_QUERIES: usize = 8;

/// Largest head that the attention kernel's 64 threads can sum.
pub(super) const MAX_HEAD_DIM: usize = 256;

/// A kernel and everything that it is specialised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "one a file in shaders/")]
pub enum Kernel {
    Embed {
        layout: Layout,
    },
    Norm,
    Pack,
    /// `tokens` of 1, 2, 4 or 8.
    MatmulFew {
        layout: Layout,
        tokens: u8,
    },
    /// The same for pairs of a row and an expert.
    Experts {
        layout: Layout,
        tokens: u8,
    },
    /// For processors that serve as GPUs.
    Matvec {
        layout: Layout,
    },
    /// The same for several rows.
    MatmulFlat {
        layout: Layout,
    },
    /// `tokens` of 32 or 64; half floats for codes only.
    Matmul {
        layout: Layout,
        tokens: u8,
        floats: Floats,
    },
    RopeAppend {
        cells: CacheType,
    },
    /// `queries` of a tile, 1 to 8; `quads`: a quarter of the head size.
    Attend {
        cells: CacheType,
        queries: u8,
        quads: u8,
    },
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
    },
    MoveCells,
}

impl Kernel {
    /// The file in `shaders/`, without extension.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Embed { .. } => "embed",
            Kernel::Norm => "norm",
            Kernel::Pack => "pack",
            Kernel::MatmulFew { .. } => "matmul_few",
            Kernel::Experts { .. } => "experts",
            Kernel::Matvec { .. } => "matvec",
            Kernel::MatmulFlat { .. } => "matmul_flat",
            Kernel::Matmul { .. } => "matmul",
            Kernel::RopeAppend { .. } => "rope_append",
            Kernel::Attend { .. } => "attend",
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

    /// Whether the source uses `shaders/step.wgsl`; bindings that are not used have no place in a layout.
    pub(super) fn reads_step(self) -> bool {
        use Kernel::{Gate, GatedNorm, LinearRows, MoveCells, Route, Select, SumExperts};
        !matches!(self, Gate | GatedNorm | LinearRows | Route | SumExperts | Select | MoveCells)
    }

    /// Every legal combination (a few head sizes stand for all).
    pub fn all() -> Vec<Kernel> {
        let mut all = vec![Kernel::Norm, Kernel::Pack, Kernel::ShortConv, Kernel::Gate];
        all.extend([Kernel::LinearRows, Kernel::LinearAttend, Kernel::GatedNorm]);
        all.extend([Kernel::Route, Kernel::SortExperts, Kernel::SumExperts]);
        all.extend([Kernel::SelectBlocks, Kernel::Select, Kernel::MoveCells]);
        for layout in Layout::ALL {
            all.extend([Kernel::Embed { layout }, Kernel::Matvec { layout }, Kernel::MatmulFlat { layout }]);
            all.extend([1, 2, 4, 8].map(|tokens| Kernel::MatmulFew { layout, tokens }));
            all.extend([1, 2, 4, 8].map(|tokens| Kernel::Experts { layout, tokens }));
            for floats in [Floats::F32, Floats::F16].into_iter().filter(|&floats| floats == floats.of(layout)) {
                all.extend([32, 64].map(|tokens| Kernel::Matmul { layout, tokens, floats }));
            }
        }
        for cells in [CacheType::F32, CacheType::F16, CacheType::Q8_0] {
            all.extend([Kernel::RopeAppend { cells }, Kernel::ReadCells { cells }]);
            for queries in 1..=MAX_QUERIES as u8 {
                all.extend([8, 16, 20, 64].map(|quads| Kernel::Attend { cells, queries, quads }));
            }
        }
        all
    }

    /// The linked source.
    pub fn source(self, lanes: Lanes) -> String {
        let mut source = String::new();
        let mut parts = Vec::new();
        if let Kernel::Embed { layout }
        | Kernel::Matvec { layout }
        | Kernel::MatmulFlat { layout }
        | Kernel::MatmulFew { layout, .. }
        | Kernel::Experts { layout, .. }
        | Kernel::Matmul { layout, .. } = self
        {
            // GPUs unpack a byte by one instruction; the way without shifts takes them three.
            let on_processors = matches!(self, Kernel::Matvec { .. } | Kernel::MatmulFlat { .. });
            parts.push(if on_processors { shader!("bytes/mask") } else { shader!("bytes/shift") });
            parts.push(layout_snippet(layout));
            if let Some(table) = layout.table() {
                let values = table.values().map(|v| format!("{v}.0")).join(", ");
                _ = writeln!(source, "const VALUES = array<f32, 16>({values});");
                parts.push(shader!("layouts/table"));
            }
        }
        if let Kernel::Matmul { floats, .. } = self {
            parts.push(floats.snippet());
        }
        match self {
            Kernel::MatmulFew { tokens, .. } | Kernel::Matmul { tokens, .. } => {
                _ = writeln!(source, "const TOKENS: u32 = {tokens}u;");
                parts.push(shader!("epilogue"));
            }
            Kernel::Experts { tokens, .. } => {
                _ = writeln!(source, "const TOKENS: u32 = {tokens}u;");
                parts.push(shader!("experts"));
            }
            Kernel::Matvec { .. } | Kernel::MatmulFlat { .. } => parts.push(shader!("epilogue")),
            Kernel::Attend { cells, queries, quads } => {
                _ = writeln!(source, "const QUERIES: u32 = {queries}u;\nconst QUADS: u32 = {quads}u;");
                parts.push(cells_snippet(cells));
            }
            Kernel::RopeAppend { cells } => parts.extend([cells_snippet(cells), lanes.snippet()]),
            Kernel::ReadCells { cells } => parts.push(cells_snippet(cells)),
            Kernel::Norm | Kernel::GatedNorm => parts.push(lanes.snippet()),
            _ => {}
        }
        parts.push(shader!("step"));
        parts.push(match self {
            Kernel::Embed { .. } => shader!("embed"),
            Kernel::Norm => shader!("norm"),
            Kernel::Pack => shader!("pack"),
            Kernel::MatmulFew { .. } | Kernel::Experts { .. } => shader!("matmul_few"),
            Kernel::Matvec { .. } => shader!("matvec"),
            Kernel::MatmulFlat { .. } => shader!("matmul_flat"),
            Kernel::Matmul { .. } => shader!("matmul"),
            Kernel::RopeAppend { .. } => shader!("rope_append"),
            Kernel::Attend { .. } => shader!("attend"),
            Kernel::ShortConv => shader!("short_conv"),
            Kernel::LinearRows => shader!("linear_rows"),
            Kernel::LinearAttend => shader!("linear_attend"),
            Kernel::GatedNorm => shader!("gated_norm"),
            Kernel::Gate => shader!("gate"),
            Kernel::Route => shader!("route"),
            Kernel::SortExperts => shader!("sort_experts"),
            Kernel::SumExperts => shader!("sum_experts"),
            Kernel::SelectBlocks => shader!("select_blocks"),
            Kernel::Select => shader!("select"),
            Kernel::ReadCells { .. } => shader!("read_cells"),
            Kernel::MoveCells => shader!("move_cells"),
        });
        // Browsers want the line; naga, behind the native backends, knows subgroups without it and not the line.
        if lanes == Lanes::Subgroup && cfg!(target_arch = "wasm32") {
            source.insert_str(0, "enable subgroups;\n");
        }
        if let Kernel::Matmul { floats: Floats::F16, .. } = self {
            source.insert_str(0, "enable f16;\n");
        }
        source + &parts.join("\n")
    }
}

/// How values are summed over the threads of a workgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lanes {
    /// Through workgroup memory; runs everywhere.
    Workgroup,
    /// With subgroup operations.
    Subgroup,
    /// By few threads, for processors that serve as GPUs.
    Processor,
}

impl Lanes {
    fn snippet(self) -> &'static str {
        match self {
            Lanes::Workgroup => shader!("lanes/workgroup"),
            Lanes::Subgroup => shader!("lanes/subgroup"),
            Lanes::Processor => shader!("lanes/processor"),
        }
    }
}

/// What the tiles of `matmul` hold; sums of more than four columns are 32-bit floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Floats {
    /// Runs everywhere.
    F32,
    /// Half the workgroup memory, where the adapter has the feature `shader-f16`.
    F16,
}

impl Floats {
    /// What weights of a layout take: those in floats keep all their bits.
    pub(super) fn of(self, layout: Layout) -> Self {
        match layout {
            Layout::F32 | Layout::F16 | Layout::Bf16 => Floats::F32,
            _ => self,
        }
    }

    fn snippet(self) -> &'static str {
        match self {
            Floats::F32 => shader!("floats/f32"),
            Floats::F16 => shader!("floats/f16"),
        }
    }
}

fn layout_snippet(layout: Layout) -> &'static str {
    match layout {
        Layout::F32 => shader!("layouts/f32"),
        Layout::F16 => shader!("layouts/f16"),
        Layout::Bf16 => shader!("layouts/bf16"),
        Layout::U4 => shader!("layouts/u4"),
        Layout::U5 => shader!("layouts/u5"),
        Layout::U6 => shader!("layouts/u6"),
        Layout::U3 => shader!("layouts/u3"),
        Layout::U2 => shader!("layouts/u2"),
        Layout::I8 => shader!("layouts/i8"),
        Layout::T3(_) => shader!("layouts/t3"),
        Layout::T4(_) => shader!("layouts/t4"),
        Layout::Nvfp4 => shader!("layouts/nvfp4"),
    }
}

fn cells_snippet(cells: CacheType) -> &'static str {
    match cells {
        CacheType::F32 => shader!("cells/f32"),
        CacheType::F16 => shader!("cells/f16"),
        CacheType::Q8_0 => shader!("cells/q8_0"),
    }
}
