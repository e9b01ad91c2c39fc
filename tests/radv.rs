//! Registers, spills, workgroup memory and occupancy of every kernel for GPUs, as AMD's compiler of Mesa (RADV) gives them;
//! needs no GPU: RADV compiles for the one that `RADV_FORCE_FAMILY` names, and prints what came of a pipeline.
//! `SNAPSHOTS=overwrite cargo test -p foreword --features foreword/wgpu --test radv` writes `docs/webgpu/registers.tsv` anew.
#![cfg(all(feature = "wgpu", target_os = "linux"))]

use foreword::backend::webgpu::{Kernel, Lanes};
use std::borrow::Cow;
use std::collections::HashSet;
use std::process::Command;
use wgpu::hal::api::Vulkan;
use wgpu::hal::{self, Adapter as _, Device as _};
use wgpu::naga;

const FAMILIES: [&str; 3] = ["navi21", "vega10", "gfx1100"];
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/webgpu/registers.tsv");
const COLUMNS: &str = "kernel\tvariant\tfamily\tVGPRs\tspilled\tSGPRs\tLDS bytes\tinstructions\tsubgroups per SIMD";

/// Set where the test runs by itself for a family: the driver reads its environment when it is loaded.
const ALONE: &str = "FOREWORD_TEST_ALONE";
/// What stands in front of the driver's name and version, and of a kernel's, among what the driver prints.
const DRIVER: &str = "driver: ";
const KERNEL: &str = "kernel: ";

/// What WebGPU guarantees.
const WORKGROUP_BYTES: u32 = 16384;

/// Vector registers that a thread may take.
fn most_vgprs(kernel: &str) -> u32 {
    match kernel {
        // Up to eight rows of sums beside the codes of four weight rows.
        "matmul_few" | "experts" => 256,
        // 128, in the twelves that a GFX1100 gives out.
        _ => 132,
    }
}

/// Vector registers that a thread may spill. `matmul_few`, which is `experts` with another epilogue, wants more than the 132 that
/// RADV gives it on a GFX1100; see docs/webgpu.md.
fn most_spilled(kernel: &str, family: &str) -> u32 {
    match (kernel, family) {
        ("matmul_few" | "experts", "gfx1100") => 26,
        _ => 0,
    }
}

/// The kernels that run on GPUs, in each way of summing, with name and variant. Those that differ only in the values of a table
/// are compiled once.
fn variants() -> Vec<(String, Kernel, Lanes)> {
    let (mut variants, mut seen) = (Vec::new(), HashSet::new());
    for kernel in Kernel::all() {
        if matches!(kernel, Kernel::Matvec { .. } | Kernel::MatmulFlat { .. }) {
            continue;
        }
        let debug = format!("{kernel:?}");
        let fields = debug.split_once(" { ").map_or("", |(_, fields)| fields.trim_end_matches(" }"));
        for lanes in [Lanes::Workgroup, Lanes::Subgroup] {
            let source = kernel.source(lanes);
            let lines: Vec<&str> = source.lines().filter(|line| !line.starts_with("const VALUES")).collect();
            if seen.insert(lines.join("\n")) {
                let subgroups = if lanes == Lanes::Subgroup { " with subgroups" } else { "" };
                variants.push((format!("{}\t{fields}{subgroups}", kernel.name()), kernel, lanes));
            }
        }
    }
    variants
}

/// Compiles all variants on RADV's device, if there is one. The null device has neither memory nor fences, so it is opened
/// below the layer of wgpu that makes some for every device.
#[allow(unsafe_code, reason = "calls into the Vulkan driver")]
fn compile_all() {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::VULKAN));
    let Some(adapter) = adapters.iter().find(|adapter| adapter.get_info().name.contains("RADV")) else { return };
    eprintln!("{DRIVER}{}", adapter.get_info().driver_info);
    let features = wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16;
    assert!(adapter.features().contains(features), "{:?}", adapter.features());
    // SAFETY: the adapter is only used to open a device, and lives longer than that.
    let opened = unsafe {
        let adapter = adapter.as_hal::<Vulkan>().expect("an adapter of Vulkan");
        adapter.open(features, &wgpu::Limits::defaults(), &wgpu::MemoryHints::default()).expect("a device")
    };
    for (name, kernel, lanes) in variants() {
        eprintln!("{KERNEL}{name}");
        compile(&opened.device, kernel, lanes);
    }
}

/// The same pipeline that `src/backend/webgpu/pipelines.rs` has wgpu make.
#[allow(unsafe_code, reason = "calls into the Vulkan driver")]
fn compile(device: &hal::vulkan::Device, kernel: Kernel, lanes: Lanes) {
    let module = naga::front::wgsl::parse_str(&kernel.source(lanes)).expect("WGSL");
    let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .expect("a valid module");
    let entries = bindings(&module);
    let shader = hal::NagaShader { module: Cow::Owned(module), info, debug_source: None };
    // SAFETY: all is made by this device, from descriptions that fit the validated module; nothing is run, and each thing is
    // destroyed once, after what uses it.
    unsafe {
        let flags = hal::BindGroupLayoutFlags::empty();
        let group = hal::BindGroupLayoutDescriptor { label: None, flags, entries: &entries };
        let group = device.create_bind_group_layout(&group).expect("a layout of bindings");
        let layout = device
            .create_pipeline_layout(&hal::PipelineLayoutDescriptor {
                label: None,
                flags: hal::PipelineLayoutFlags::empty(),
                bind_group_layouts: &[Some(&group)],
                immediate_size: 0,
            })
            .expect("a layout");
        let checked = wgpu::ShaderRuntimeChecks::checked();
        let about = hal::ShaderModuleDescriptor { label: None, runtime_checks: checked };
        let module = device.create_shader_module(&about, hal::ShaderInput::Naga(shader)).expect("a module");
        let pipeline = device
            .create_compute_pipeline(&hal::ComputePipelineDescriptor {
                label: None,
                layout: &layout,
                stage: hal::ProgrammableStage {
                    module: &module,
                    entry_point: "main",
                    constants: &Default::default(),
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
            .expect("a pipeline");
        device.destroy_compute_pipeline(pipeline);
        device.destroy_shader_module(module);
        device.destroy_pipeline_layout(layout);
        device.destroy_bind_group_layout(group);
    }
}

/// The bindings that a module declares, all of them in group 0.
fn bindings(module: &naga::Module) -> Vec<wgpu::BindGroupLayoutEntry> {
    let mut entries = Vec::new();
    for (_, global) in module.global_variables.iter() {
        let Some(at) = &global.binding else { continue };
        let ty = match global.space {
            naga::AddressSpace::Storage { access } => {
                let read_only = !access.contains(naga::StorageAccess::STORE);
                wgpu::BufferBindingType::Storage { read_only }
            }
            _ => wgpu::BufferBindingType::Uniform,
        };
        entries.push(wgpu::BindGroupLayoutEntry {
            binding: at.binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        });
    }
    entries.sort_by_key(|entry| entry.binding);
    entries
}

/// The driver's name and version, and what it printed for a family, or `None` where RADV, or the family in it, is missing.
fn output_of(family: &str) -> Option<(String, String)> {
    let run = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "kernels_take_the_registers_of_the_table", "--nocapture"])
        .env(ALONE, "1")
        .env("RADV_FORCE_FAMILY", family)
        .env("RADV_DEBUG", "shaderstats,nocache")
        .output()
        .expect("this program");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    if said.contains("Unknown family") {
        return None;
    }
    assert!(run.status.success(), "{family}: {said}");
    let driver = said.lines().find_map(|line| line.strip_prefix(DRIVER))?.to_string();
    Some((driver, said))
}

/// Lines of the table. Fails where a kernel takes or spills more than it may.
fn rows(family: &str, said: &str) -> Vec<String> {
    let row = |block: &str| {
        let name = block.lines().next().unwrap_or_default();
        let what = format!("{name} on {family}");
        let stat = |label: &str| -> u32 {
            let value = block.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(": "));
            value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{what}: no {label} in {block}"))
        };
        let kernel = name.split('\t').next().unwrap_or_default();
        let (vgprs, spilled, lds) = (stat("VGPRs"), stat("Spilled VGPRs"), stat("LDS size"));
        assert!(vgprs <= most_vgprs(kernel), "{what}: {vgprs} vector registers");
        assert!(spilled <= most_spilled(kernel, family), "{what}: {spilled} vector registers are spilled");
        // Memory of a thread is for what is spilled, and for arrays that are indexed at run time, of which there are to be none.
        assert!(spilled > 0 || stat("Scratch size") == 0, "{what}: {} bytes of scratch", stat("Scratch size"));
        assert!(lds <= WORKGROUP_BYTES, "{what}: {lds} bytes of workgroup memory");
        let (sgprs, instructions, subgroups) = (stat("SGPRs"), stat("Instructions"), stat("Subgroups per SIMD"));
        format!("{name}\t{family}\t{vgprs}\t{spilled}\t{sgprs}\t{lds}\t{instructions}\t{subgroups}")
    };
    // What the driver compiles for itself comes before the first kernel.
    said.split(KERNEL).skip(1).map(row).collect()
}

#[test]
fn kernels_take_the_registers_of_the_table() {
    if std::env::var_os(ALONE).is_some() {
        return compile_all();
    }
    let overwrites = std::env::var("SNAPSHOTS").is_ok_and(|what| what == "overwrite");
    let committed = std::fs::read_to_string(TABLE).unwrap_or_default();
    let mut table = String::new();
    for family in FAMILIES {
        let Some((driver, said)) = output_of(family) else {
            return eprintln!("skipped: Mesa's driver for AMD's GPUs is not installed, or does not know {family}");
        };
        if table.is_empty() {
            table = format!("# {driver}\n{COLUMNS}\n");
        }
        if !overwrites && committed.lines().next() != table.lines().next() {
            return eprintln!("skipped: {driver} is another compiler than the one that the table is of");
        }
        let rows = rows(family, &said);
        assert_eq!(rows.len(), variants().len(), "{family}: kernels");
        rows.iter().for_each(|row| table += &format!("{row}\n"));
    }
    if overwrites {
        return std::fs::write(TABLE, table).expect("the table is written");
    }
    compare(&committed, &table);
}

/// Fails with the lines that one table has and the other has not.
fn compare(committed: &str, table: &str) {
    let without = |a: &str, b: &str, sign: &str| -> Vec<String> {
        let b: HashSet<&str> = b.lines().collect();
        a.lines().filter(|line| !b.contains(line)).map(|line| format!("{sign} {line}")).collect()
    };
    let changes = [without(committed, table, "-"), without(table, committed, "+")].concat();
    assert!(changes.is_empty(), "SNAPSHOTS=overwrite writes the table anew:\n{}", changes.join("\n"));
}
