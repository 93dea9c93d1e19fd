! NSM1 (S. Richers et al., 2024) by a flavor surrogate, called from Fortran; linked with the compiled door model.cpp.
!   gfortran model.f90 flavor.f90 model.o -lstdc++ -o flavor && ./flavor model.bin
program flavor
  use, intrinsic :: iso_c_binding, only: c_ptr, c_double, c_size_t, c_char, c_null_char, c_associated
  use model_door, only: model_open, model_close, model_predict_all_f64, predict_all_inputs, predict_all_outputs
  implicit none
  integer, parameter :: cells = 2
  real(c_double), parameter :: density(6) = 1e32_c_double * [14.22d0, 4.9125d0, 4.9125d0, 19.15d0, 4.9125d0, 4.9125d0]
  real(c_double), parameter :: emu(6) = [9.9546d32, 7.8547d32, 6.2329d32, 1.48813d33, 7.8547d32, 6.2329d32]
  real(c_double), parameter :: heavy(3) = [-0.0216d0, 0.0743d0, -0.5354d0]
  real(c_double) :: factor(3, 6), given(predict_all_inputs, cells), found(predict_all_outputs, cells)
  character(kind=c_char) :: message(512)
  character(len=4096) :: path
  type(c_ptr) :: surrogate
  integer :: k, length

  call get_command_argument(1, path, length)
  message = c_null_char
  surrogate = model_open(path(1:length)//c_null_char, message, int(size(message), c_size_t))
  if (.not. c_associated(surrogate)) then
    write (*, '(512a)') message
    stop 2
  end if
  factor = spread(heavy, 2, 6)
  factor(:, 1) = [0.0974d0, 0.0421d0, -0.1343d0]
  factor(:, 4) = [0.0723d0, 0.0313d0, -0.3446d0]
  do k = 1, 3
    given(6 * k - 5:6 * k, 1) = factor(k, :) * density
  end do
  given(19:24, 1) = density
  given(:, 2) = given(:, 1)
  call model_predict_all_f64(surrogate, given, found, int(cells, c_size_t))
  do k = 1, 6
    write (*, '(a, i2, 3(a, e12.5))') 'species', k, ': before', density(k), ', surrogate', found(18 + k, 1), ', Emu', emu(k)
  end do
  write (*, '(a, e12.5, a)') 'growth rate', found(25, 1), ' 1/s'
  call model_close(surrogate)
end program
