// A surrogate from its C++ header: nothing is linked, nothing is loaded. MODEL_HEADER and MODEL_NAMESPACE come from CMake.
//   from_header --golden golden.csv
//   from_header --states states.csv --time 1000000
#include MODEL_HEADER

#include "program.hpp"

namespace model = MODEL_NAMESPACE;

int main(int count, char** words) {
  return program::guarded([&] {
    const auto call = [](const float* in, float* out, std::size_t rows) {
      for (std::size_t r = 0; r < rows; ++r) model::evaluate<float>(in + r * model::inputs, out + r * model::outputs);
    };
    const std::string detail = "\"constant_bytes\": " + std::to_string(model::constant_bytes);
    return program::run<float>("from_header", detail, model::inputs, model::outputs, call, program::read_options(count, words, program::common));
  });
}
