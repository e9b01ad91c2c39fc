//! Every legal combination of kernel and snippets links and validates; needs no GPU.
#![cfg(feature = "wgpu")]

use foreword::backend::webgpu::{Floats, Kernel, Lanes};
use wgpu::naga;
use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};

/// Bytes of workgroup memory, storage bindings, and threads that every WebGPU device has.
const WORKGROUP_BYTES: u32 = 16384;
/// With tiles in half floats: two of a group of 32 columns by 64 rows, and a word for every row.
const HALF_TILES_BYTES: u32 = 2 * 64 * (32 * 2 + 4);
const STORAGE_BINDINGS: usize = 8;
const THREADS: u32 = 256;

fn validate(kernel: Kernel, lanes: Lanes) {
    let source = kernel.source(lanes);
    let what = format!("{kernel:?} with {lanes:?}");
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|e| panic!("{what}: {}", e.emit_to_string_with_path(&source, kernel.name())));
    // pack2x16float and its inverse, which WebGPU always has.
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SUBGROUP, lanes == Lanes::Subgroup);
    let is_half = matches!(kernel, Kernel::Matmul { floats: Floats::F16, .. });
    capabilities.set(Capabilities::SHADER_FLOAT16, is_half);
    Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{what}: {}", e.emit_to_string_with_path(&source, kernel.name())));
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    let (mut workgroup, mut storage) = (0, 0);
    for (_, global) in module.global_variables.iter() {
        match global.space {
            naga::AddressSpace::WorkGroup => workgroup += layouter[global.ty].size,
            naga::AddressSpace::Storage { .. } => storage += 1,
            _ => {}
        }
    }
    assert!(storage <= STORAGE_BINDINGS, "{what}: {storage} storage bindings");
    let bytes = if is_half { HALF_TILES_BYTES } else { WORKGROUP_BYTES };
    assert!(workgroup <= bytes, "{what}: {workgroup} bytes of workgroup memory");
    let threads: u32 = module.entry_points[0].workgroup_size.iter().product();
    assert!(threads <= THREADS, "{what}: {threads} threads");
}

#[test]
fn every_kernel_links_and_validates_within_the_default_limits() {
    for kernel in Kernel::all() {
        for lanes in [Lanes::Workgroup, Lanes::Subgroup, Lanes::Processor] {
            validate(kernel, lanes);
        }
    }
}
