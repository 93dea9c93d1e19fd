// What from_onnx needs of ONNX Runtime, for a machine that has its library but not its headers: the Python package brings just that.
//
// The library exports one C function, OrtGetApiBase, which hands out a table of functions. The order of the first 102 of them was fixed with version 1 of
// the interface ("DO NOT MODIFY ABOVE" in onnxruntime_c_api.cc); later versions only append. This header names the fifteen that are used by their
// place in that table, and wraps them in the few classes of ONNX Runtime's own C++ interface that from_onnx.cpp mentions, with the same names.
// Where the official headers are found, CMake uses those and not this one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

struct OrtApiBase {
  const void* const* (*GetApi)(std::uint32_t version);
  const char* (*GetVersionString)();
};
extern "C" const OrtApiBase* OrtGetApiBase() noexcept;

struct OrtStatus;
struct OrtEnv;
struct OrtSessionOptions;
struct OrtSession;
struct OrtMemoryInfo;
struct OrtValue;
struct OrtRunOptions;
enum OrtLoggingLevel { ORT_LOGGING_LEVEL_WARNING = 2 };
enum GraphOptimizationLevel { ORT_DISABLE_ALL = 0, ORT_ENABLE_ALL = 99 };
enum OrtAllocatorType { OrtDeviceAllocator = 0, OrtArenaAllocator = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };

namespace Ort {

// Places in the table of version 1.
enum Place : std::size_t {
  GetErrorMessage = 2, CreateEnv = 3, CreateSession = 7, Run = 9, CreateSessionOptions = 10, SetSessionGraphOptimizationLevel = 23, SetIntraOpNumThreads = 24,
  CreateTensorWithDataAsOrtValue = 49, CreateCpuMemoryInfo = 69, ReleaseEnv = 92, ReleaseStatus = 93, ReleaseMemoryInfo = 94, ReleaseSession = 95, ReleaseValue = 96, ReleaseSessionOptions = 100
};

using Exception = std::runtime_error;

template <Place place, typename... Arguments>
void release(Arguments... arguments) {
  reinterpret_cast<void (*)(Arguments...)>(const_cast<void*>(OrtGetApiBase()->GetApi(1)[place]))(arguments...);
}

// Calls a function of the table; what it complains about becomes an exception.
template <Place place, typename... Arguments>
void call(Arguments... arguments) {
  const auto table = OrtGetApiBase()->GetApi(1);
  OrtStatus* const status = reinterpret_cast<OrtStatus* (*)(Arguments...)>(const_cast<void*>(table[place]))(arguments...);
  if (!status) return;
  const std::string message = reinterpret_cast<const char* (*)(const OrtStatus*)>(const_cast<void*>(table[GetErrorMessage]))(status);
  release<ReleaseStatus>(status);
  throw Exception(message);
}

template <typename Thing, Place place>
struct Release {
  void operator()(Thing* thing) const { release<place>(thing); }
};
template <typename Thing, Place place>
using Owned = std::unique_ptr<Thing, Release<Thing, place>>;

struct Env {
  Env(OrtLoggingLevel level, const char* name) {
    OrtEnv* made = nullptr;
    call<CreateEnv>(level, name, &made);
    owned.reset(made);
  }
  Owned<OrtEnv, ReleaseEnv> owned;
};

struct SessionOptions {
  SessionOptions() {
    OrtSessionOptions* made = nullptr;
    call<CreateSessionOptions>(&made);
    owned.reset(made);
  }
  SessionOptions& SetIntraOpNumThreads(int threads) {
    call<Ort::SetIntraOpNumThreads>(owned.get(), threads);
    return *this;
  }
  SessionOptions& SetGraphOptimizationLevel(GraphOptimizationLevel level) {
    call<SetSessionGraphOptimizationLevel>(owned.get(), level);
    return *this;
  }
  Owned<OrtSessionOptions, ReleaseSessionOptions> owned;
};

struct RunOptions {
  explicit RunOptions(std::nullptr_t) {}
};

struct MemoryInfo {
  static MemoryInfo CreateCpu(OrtAllocatorType kind, OrtMemType memory) {
    OrtMemoryInfo* made = nullptr;
    call<CreateCpuMemoryInfo>(kind, memory, &made);
    return MemoryInfo{Owned<OrtMemoryInfo, ReleaseMemoryInfo>(made)};
  }
  operator const OrtMemoryInfo*() const { return owned.get(); }
  Owned<OrtMemoryInfo, ReleaseMemoryInfo> owned;
};

// Layout of one pointer, so that an array of them is an array of OrtValue*.
struct Value {
  template <typename T>
  static Value CreateTensor(const OrtMemoryInfo* memory, T* data, std::size_t count, const std::int64_t* shape, std::size_t dimensions) {
    static_assert(sizeof(T) == 4, "only float tensors are declared here");
    constexpr int single = 1;  // ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
    OrtValue* made = nullptr;
    call<CreateTensorWithDataAsOrtValue>(memory, static_cast<void*>(data), count * sizeof(T), shape, dimensions, single, &made);
    return Value{made};
  }
  explicit Value(OrtValue* made) : value(made) {}
  Value(Value&& other) noexcept : value(std::exchange(other.value, nullptr)) {}
  ~Value() {
    if (value) release<ReleaseValue>(value);
  }
  OrtValue* value;
};
static_assert(sizeof(Value) == sizeof(OrtValue*), "a Value is one pointer");

struct Session {
  Session(const Env& environment, const char* path, const SessionOptions& options) {
    OrtSession* made = nullptr;
    call<CreateSession>(static_cast<const OrtEnv*>(environment.owned.get()), path, static_cast<const OrtSessionOptions*>(options.owned.get()), &made);
    owned.reset(made);
  }
  void Run(const RunOptions&, const char* const* in_names, const Value* in, std::size_t in_count, const char* const* out_names, Value* out, std::size_t out_count) {
    call<Ort::Run>(owned.get(), static_cast<const OrtRunOptions*>(nullptr), in_names, reinterpret_cast<const OrtValue* const*>(in), in_count, out_names, out_count,
                   reinterpret_cast<OrtValue**>(out));
  }
  Owned<OrtSession, ReleaseSession> owned;
};

}  // namespace Ort
