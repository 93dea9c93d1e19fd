// A surrogate from a TorchScript file, by libtorch, on as many threads as the environment says.
// Names and shapes come from the JSON beside the file; a row holds its inputs one after the other.
//   from_torchscript --model model.ts --golden golden.csv
#include <ATen/Parallel.h>
#include <torch/script.h>

#include "card.hpp"
#include "program.hpp"

namespace {

// Tensors [rows, ...] of the inputs; a single input is looked at where it lies.
std::vector<torch::jit::IValue> split(const card::Card& about, const float* in, std::size_t rows) {
  const std::size_t total = card::Card::width(about.inputs);
  const auto all = torch::from_blob(const_cast<float*>(in), {static_cast<long>(rows), static_cast<long>(total)}, torch::kFloat32);
  std::vector<torch::jit::IValue> result;
  long first = 0;
  for (const auto& tensor : about.inputs) {
    const long width = static_cast<long>(tensor.size());
    std::vector<std::int64_t> shape{static_cast<std::int64_t>(rows)};
    shape.insert(shape.end(), tensor.shape.begin(), tensor.shape.end());
    result.emplace_back(all.narrow(1, first, width).reshape(shape));
    first += width;
  }
  return result;
}

}  // namespace

int main(int count, char** words) {
  return program::guarded([&] {
    std::vector<std::string> known = program::common;
    known.push_back("--model");
    const program::Options options = program::read_options(count, words, known);
    const std::string path = program::get(options, "--model", "model.ts");
    const card::Card about = card::beside(path);
    const program::Columns columns{card::Card::columns(about.inputs), card::Card::columns(about.outputs), about.tolerance};
    const c10::InferenceMode no_gradients;
    torch::jit::Module surrogate = torch::jit::load(path);
    surrogate.eval();
    const auto call = [&](const float* in, float* out, std::size_t rows) {
      const torch::jit::IValue answer = surrogate.forward(split(about, in, rows));
      std::vector<torch::Tensor> results;
      if (answer.isTensor())
        results.push_back(answer.toTensor());
      else
        for (const auto& part : answer.toTupleRef().elements()) results.push_back(part.toTensor());
      if (results.size() != about.outputs.size()) throw std::runtime_error("the model gives " + std::to_string(results.size()) + " outputs, not those of its description; export it again");
      std::size_t first = 0;
      for (std::size_t k = 0; k < results.size(); ++k) {
        const std::size_t width = about.outputs[k].size();
        const auto part = results[k].to(torch::kFloat32).contiguous();
        if (static_cast<std::size_t>(part.numel()) != rows * width) throw std::runtime_error(about.outputs[k].name + " has another shape than in its description; export the model again");
        card::put_columns(part.data_ptr<float>(), rows, columns.out.size(), first, width, out);
        first += width;
      }
    };
    const std::string detail = "\"threads\": " + std::to_string(at::get_num_threads());
    return program::run<float>("from_torchscript", detail, columns, call, options);
  });
}
