// Runge-Kutta in C++: the classical baseline of every surrogate. States are rows of x, y [mm], tx, ty, q/p [1/GeV], z0, dz [mm].
//   baseline --states states.csv --out final.csv --field lhcb_like --method rk4 --step 100
//   baseline --states states.csv --time 1000000 --method cash_karp --step 1000 --error 1e-4
#include "program.hpp"
#include "propagation.hpp"

namespace {

template <class Field>
int follow(const Field& field, const program::Options& options) {
  const std::string method = program::get(options, "--method", "rk4");
  const bool fixed = method == "rk4";
  if (!fixed && method != "cash_karp") throw std::runtime_error("--method " + method + "; choose rk4 or cash_karp");
  const double step = program::number(options, "--step", fixed ? 20 : 1000), tolerance = program::number(options, "--error", 1e-4);
  if (!(step > 0 && tolerance > 0)) throw std::runtime_error("--step and --error must be positive numbers of mm");
  const auto call = [&](const double* in, double* out, std::size_t rows) {
    for (std::size_t r = 0; r < rows; ++r, in += 7, out += 4) {
      const tracks::State start{in[0], in[1], in[2], in[3]};
      const double kappa = tracks::curvature * in[4], z_end = in[5] + in[6];
      const tracks::State s = fixed ? tracks::rk4(field, in[5], z_end, start, kappa, step) : tracks::cash_karp(field, in[5], z_end, start, kappa, step, tolerance);
      out[0] = s.x;
      out[1] = s.y;
      out[2] = s.tx;
      out[3] = s.ty;
    }
  };
  char detail[160];
  std::snprintf(detail, sizeof detail, "\"method\": \"%s\", \"field\": \"%s\", \"step_mm\": %.9g, \"error_mm\": %.9g", method.c_str(),
                program::get(options, "--field", "lhcb_like").c_str(), step, fixed ? 0 : tolerance);
  const program::Columns columns{{"x", "y", "tx", "ty", "qop", "z0", "dz"}, {"x", "y", "tx", "ty"}};
  return program::run<double>("baseline", detail, columns, call, options);
}

}  // namespace

int main(int count, char** words) {
  return program::guarded([&] {
    std::vector<std::string> known = program::common;
    known.insert(known.end(), {"--field", "--polarity", "--map", "--method", "--step", "--error"});
    const program::Options options = program::read_options(count, words, known);
    const std::string name = program::get(options, "--field", "lhcb_like");
    const double polarity = program::number(options, "--polarity", 1);
    if (polarity != 1 && polarity != -1) throw std::runtime_error("--polarity is 1 or -1");
    if (name == "uniform") return follow(tracks::UniformField{polarity}, options);
    if (name == "gaussian") return follow(tracks::GaussianField{polarity}, options);
    if (name == "dipole") return follow(tracks::DipoleField{polarity}, options);
    if (name == "lhcb_like") return follow(tracks::LHCbLikeField{polarity}, options);
    if (name == "grid") return follow(tracks::GridField::read(program::get(options, "--map", ""), polarity), options);
    throw std::runtime_error("--field " + name + "; choose uniform, gaussian, dipole, lhcb_like or grid (with --map FILE)");
  });
}
