// A surrogate from an ONNX file, by ONNX Runtime on one thread. Needs ONNX Runtime's C++ package (headers and library).
//   from_onnx --model model.onnx --golden golden.csv
#include <onnxruntime_cxx_api.h>

#include <array>

#include "program.hpp"

int main(int count, char** words) {
  return program::guarded([&] {
    std::vector<std::string> known = program::common;
    known.insert(known.end(), {"--model", "--inputs", "--outputs"});
    const program::Options options = program::read_options(count, words, known);
    const auto inputs = static_cast<std::size_t>(program::number(options, "--inputs", 7)), outputs = static_cast<std::size_t>(program::number(options, "--outputs", 4));
    Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "surrogate");
    Ort::SessionOptions settings;
    settings.SetIntraOpNumThreads(1);
    settings.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
    Ort::Session session(environment, program::get(options, "--model", "model.onnx").c_str(), settings);
    Ort::AllocatorWithDefaultOptions allocator;
    const auto in_name = session.GetInputNameAllocated(0, allocator), out_name = session.GetOutputNameAllocated(0, allocator);
    const char* in_names[] = {in_name.get()};
    const char* out_names[] = {out_name.get()};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto call = [&](const float* in, float* out, std::size_t rows) {
      const std::array<int64_t, 2> in_shape{static_cast<int64_t>(rows), static_cast<int64_t>(inputs)}, out_shape{static_cast<int64_t>(rows), static_cast<int64_t>(outputs)};
      auto state = Ort::Value::CreateTensor<float>(memory, const_cast<float*>(in), rows * inputs, in_shape.data(), in_shape.size());
      auto answer = Ort::Value::CreateTensor<float>(memory, out, rows * outputs, out_shape.data(), out_shape.size());
      session.Run(Ort::RunOptions{nullptr}, in_names, &state, 1, out_names, &answer, 1);
    };
    return program::run<float>("from_onnx", "\"threads\": 1", inputs, outputs, call, options);
  });
}
