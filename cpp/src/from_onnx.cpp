// A surrogate from an ONNX file, by ONNX Runtime on one thread. Needs ONNX Runtime's C++ package (headers and library).
// Names and shapes come from the JSON beside the file; a row holds its inputs one after the other, then its outputs.
//   from_onnx --model model.onnx --golden golden.csv
#include <onnxruntime_cxx_api.h>

#include "card.hpp"
#include "program.hpp"

namespace {

// Tensors over rows: those of one tensor are the rows themselves, several lie one after the other in `place`.
struct Tensors {
  const std::vector<card::Tensor>& described;
  std::size_t total = card::Card::width(described);
  std::vector<float> place{};
  std::vector<std::vector<std::int64_t>> shapes{};
  std::vector<Ort::Value> values{};

  void lay_over(float* rows, std::size_t count, const Ort::MemoryInfo& memory) {
    const bool several = described.size() > 1;
    if (several) place.resize(count * total);
    float* data = several ? place.data() : rows;
    shapes.resize(described.size());
    values.clear();
    for (std::size_t k = 0; k < described.size(); ++k) {
      shapes[k].assign(1, static_cast<std::int64_t>(count));
      shapes[k].insert(shapes[k].end(), described[k].shape.begin(), described[k].shape.end());
      const std::size_t size = count * described[k].size();
      values.push_back(Ort::Value::CreateTensor<float>(memory, data, size, shapes[k].data(), shapes[k].size()));
      data += size;
    }
  }

  // Between rows and the tensors in `place`; nothing for a single tensor.
  template <class Copy>
  void copy(std::size_t count, Copy&& columns) {
    std::size_t first = 0;
    for (std::size_t k = 0; described.size() > 1 && k < described.size(); first += described[k++].size())
      columns(place.data() + count * first, count, total, first, described[k].size());
  }
};

std::vector<const char*> names_of(const std::vector<card::Tensor>& tensors) {
  std::vector<const char*> names;
  for (const auto& tensor : tensors) names.push_back(tensor.name.c_str());
  return names;
}

}  // namespace

int main(int count, char** words) {
  return program::guarded([&] {
    std::vector<std::string> known = program::common;
    known.push_back("--model");
    const program::Options options = program::read_options(count, words, known);
    const std::string path = program::get(options, "--model", "model.onnx");
    const card::Card about = card::beside(path);
    const program::Columns columns{card::Card::columns(about.inputs), card::Card::columns(about.outputs), about.tolerance};
    Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "surrogate");
    Ort::SessionOptions settings;
    settings.SetIntraOpNumThreads(1);
    settings.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
    Ort::Session session(environment, path.c_str(), settings);
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto in_names = names_of(about.inputs), out_names = names_of(about.outputs);
    Tensors given{about.inputs}, answers{about.outputs};
    const auto call = [&](const float* in, float* out, std::size_t rows) {
      given.lay_over(const_cast<float*>(in), rows, memory);
      answers.lay_over(out, rows, memory);
      given.copy(rows, [&](float* part, auto... places) { card::take_columns(in, places..., part); });
      session.Run(Ort::RunOptions{nullptr}, in_names.data(), given.values.data(), given.values.size(), out_names.data(), answers.values.data(), answers.values.size());
      answers.copy(rows, [&](float* part, auto... places) { card::put_columns(part, places..., out); });
    };
    return program::run<float>("from_onnx", "\"threads\": 1", columns, call, options);
  });
}
