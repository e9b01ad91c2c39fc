// The part of the CUDA driver and of NVRTC that the backend calls, on a processor: kernels are compiled by the host's C++
// compiler against `device.h`, streams run at once, and memory ends at a page that faults.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

enum { SUCCESS = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500 };
enum { COMPILATION = 6 };

struct Program {
    std::string source, name, log, image;
};

using Run = void (*)(const unsigned*, unsigned, const void*);

struct Function {
    Run run;
    size_t params;
};

struct Launch {
    Function* function;
    unsigned grid[3], threads;
    std::vector<char> params;
    void run() const { function->run(grid, threads, params.data()); }
};

// Tests run side by side, each with a stream of its own.
struct Stream {
    bool is_capturing = false;
    // Launches since capture began.
    std::vector<Launch> captured;
};

std::recursive_mutex lock;
std::map<unsigned long long, std::pair<char*, size_t>> allocations;

std::string folder() {
    Dl_info info;
    dladdr((void*)&folder, &info);
    std::string path = info.dli_fname;
    return path.substr(0, path.rfind('/'));
}

std::string file(const std::string& path) {
    std::string text;
    if (FILE* f = fopen(path.c_str(), "r")) {
        char part[4096];
        for (size_t n; (n = fread(part, 1, sizeof part, f)) > 0;) {
            text.append(part, n);
        }
        fclose(f);
    }
    return text;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default"))) int
#define GUARD std::lock_guard<std::recursive_mutex> guard(lock)

API cuInit(unsigned) { return SUCCESS; }
API cuDeviceGet(int* device, int ordinal) { return *device = 0, ordinal == 0 ? SUCCESS : INVALID; }
API cuDeviceGetName(char* name, int n, int) { return snprintf(name, n, "emulator"), SUCCESS; }
API cuDeviceGetAttribute(int* value, int attribute, int) {
    // Multiprocessors, and the two parts of the compute capability.
    *value = attribute == 16 ? 4 : attribute == 75 ? 8 : 0;
    return SUCCESS;
}
API cuDevicePrimaryCtxRetain(void** context, int) { return *context = (void*)1, SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuCtxSetCurrent(void*) { return SUCCESS; }
API cuStreamCreate(void** stream, unsigned) { return *stream = new Stream, SUCCESS; }
API cuStreamDestroy_v2(void* stream) { return delete (Stream*)stream, SUCCESS; }
API cuStreamSynchronize(void*) { return SUCCESS; }
API cuGetErrorName(int, const char** name) { return *name = "EMULATED_ERROR", SUCCESS; }
API cuGetErrorString(int, const char** text) { return *text = "an error of the emulator", SUCCESS; }

API cuEventCreate(void** event, unsigned) { return *event = new double(0), SUCCESS; }
API cuEventDestroy_v2(void* event) { return delete (double*)event, SUCCESS; }
API cuEventSynchronize(void*) { return SUCCESS; }
API cuEventRecord(void* event, void*) {
    *(double*)event = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
    return SUCCESS;
}
API cuEventElapsedTime(float* ms, void* start, void* end) {
    return *ms = (float)(*(double*)end - *(double*)start), SUCCESS;
}
API cuEventElapsedTime_v2(float* ms, void* start, void* end) { return cuEventElapsedTime(ms, start, end); }

API cuMemAlloc_v2(unsigned long long* address, size_t bytes) {
    GUARD;
    size_t used = (bytes + 15) / 16 * 16, pages = (used + 4095) / 4096 * 4096;
    void* memory = mmap(nullptr, pages + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return OUT_OF_MEMORY;
    }
    mprotect((char*)memory + pages, 4096, PROT_NONE);
    *address = (unsigned long long)memory + pages - used;
    allocations[*address] = {(char*)memory, pages + 4096};
    return SUCCESS;
}
API cuMemFree_v2(unsigned long long address) {
    GUARD;
    auto found = allocations.find(address);
    if (found == allocations.end()) {
        return INVALID;
    }
    munmap(found->second.first, found->second.second);
    allocations.erase(found);
    return SUCCESS;
}
API cuMemsetD8Async(unsigned long long address, unsigned char value, size_t n, void*) {
    return memset((void*)address, value, n), SUCCESS;
}
API cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, size_t n, void*) {
    return memcpy((void*)to, from, n), SUCCESS;
}
API cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t n, void*) {
    return memcpy((void*)to, (const void*)from, n), SUCCESS;
}
API cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, size_t n, void*) {
    return memcpy(to, (const void*)from, n), SUCCESS;
}

API cuModuleLoadData(void** module, const void* image) {
    return *module = dlopen((const char*)image, RTLD_NOW | RTLD_LOCAL), *module ? SUCCESS : INVALID;
}
API cuModuleUnload(void*) { return SUCCESS; }
API cuModuleGetFunction(void** function, void* module, const char* name) {
    auto run = (Run)dlsym(module, (std::string("run_") + name).c_str());
    auto params = (size_t*)dlsym(module, "params_bytes");
    if (!run || !params) {
        return NOT_FOUND;
    }
    return *function = new Function{run, *params}, SUCCESS;
}
API cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned, unsigned,
    void* stream, void** params, void**) {
    GUARD;
    if (x == 0 || y == 0 || z == 0 || y > 65535 || z > 65535 || threads > 1024) {
        return INVALID;
    }
    auto f = (Function*)function;
    const char* bytes = (const char*)params[0];
    Launch launch{f, {x, y, z}, threads, std::vector<char>(bytes, bytes + f->params)};
    if (((Stream*)stream)->is_capturing) {
        ((Stream*)stream)->captured.push_back(launch);
    } else {
        launch.run();
    }
    return SUCCESS;
}

API cuStreamBeginCapture_v2(void* stream, int) {
    *(Stream*)stream = Stream{true, {}};
    return SUCCESS;
}
API cuStreamEndCapture(void* handle, void** graph) {
    auto stream = (Stream*)handle;
    stream->is_capturing = false;
    return *graph = new std::vector<Launch>(stream->captured), SUCCESS;
}
API cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) {
    return *exec = new std::vector<Launch>(*(std::vector<Launch>*)graph), SUCCESS;
}
API cuGraphDestroy(void* graph) { return delete (std::vector<Launch>*)graph, SUCCESS; }
API cuGraphExecDestroy(void* graph) { return delete (std::vector<Launch>*)graph, SUCCESS; }
API cuGraphLaunch(void* graph, void*) {
    GUARD;
    for (auto& launch : *(std::vector<Launch>*)graph) {
        launch.run();
    }
    return SUCCESS;
}

API nvrtcGetNumSupportedArchs(int* n) { return *n = 1, SUCCESS; }
API nvrtcGetSupportedArchs(int* archs) { return archs[0] = 80, SUCCESS; }
API nvrtcCreateProgram(void** program, const char* source, const char* name, int, const char* const*, const char* const*) {
    return *program = new Program{source, name, "", ""}, SUCCESS;
}
API nvrtcDestroyProgram(void** program) { return delete (Program*)*program, SUCCESS; }
API nvrtcCompileProgram(void* handle, int, const char* const*) {
    auto& program = *(Program*)handle;
    std::string here = folder(), include = EMULATOR_SOURCE;
    std::string kernel = program.name.substr(0, program.name.rfind('.'));
    // What a launch calls: the kernel with its `Params`, for every thread of every block.
    std::string source = program.source + "\nextern \"C\" size_t params_bytes = sizeof(Params);\nextern \"C\" void run_" + kernel +
        "_kernel(const unsigned* grid, unsigned threads, const void* params) {\n    fibers::run_grid(grid, threads, [](const void* p) { " +
        kernel + "_kernel(*(const Params*)p); }, params);\n}\n";
    std::string seen = source + file(include + "/device.h") + file(include + "/intrinsics.cuh");
    std::string out = here + "/" + kernel + "-" + std::to_string(std::hash<std::string>()(seen));
    struct stat about;
    if (stat((out + ".so").c_str(), &about) != 0) {
        std::string own = out + "." + std::to_string(getpid()) + "." + std::to_string((size_t)handle);
        FILE* f = fopen((own + ".cpp").c_str(), "w");
        fputs(source.c_str(), f);
        fclose(f);
        std::string command = "c++ -std=c++17 -O2 -fPIC -shared -w -U_FORTIFY_SOURCE -fno-strict-aliasing -include " + include +
            "/device.h -I" + include + " " + own + ".cpp -o " + own + ".so 2> " + own + ".log";
        if (system(command.c_str()) != 0) {
            program.log = file(own + ".log");
            return COMPILATION;
        }
        rename((own + ".so").c_str(), (out + ".so").c_str());
        remove((own + ".cpp").c_str());
        remove((own + ".log").c_str());
    }
    program.image = out + ".so";
    return SUCCESS;
}
API nvrtcGetCUBINSize(void* program, size_t* n) { return *n = ((Program*)program)->image.size() + 1, SUCCESS; }
API nvrtcGetCUBIN(void* program, char* out) { return strcpy(out, ((Program*)program)->image.c_str()), SUCCESS; }
API nvrtcGetProgramLogSize(void* program, size_t* n) { return *n = ((Program*)program)->log.size() + 1, SUCCESS; }
API nvrtcGetProgramLog(void* program, char* out) { return strcpy(out, ((Program*)program)->log.c_str()), SUCCESS; }
