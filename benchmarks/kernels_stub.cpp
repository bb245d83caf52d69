// For benchmarks/kernels.py, which lowers attention for a card that is not there. A CPU build of PyTorch traces "on CUDA" with tensors
// that hold nothing once its hooks say that there is an accelerator, and a device guard does nothing. It is preloaded, so that this
// getAccelerator is found before PyTorch's own. Nothing here can run a kernel.
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/detail/CUDAHooksInterface.h>
using namespace c10;
namespace at {
struct CUDAHooks : CUDAHooksInterface {
  using CUDAHooksInterface::CUDAHooksInterface;
  CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  DeviceIndex current_device() const override { return 0; }
  int getNumGPUs() const override { return 1; }
  bool hasPrimaryContext(DeviceIndex) const override { return false; }
  bool isAvailable() const override { return true; }
};
REGISTER_CUDA_HOOKS(CUDAHooks)
}
namespace at::accelerator { std::optional<DeviceType> getAccelerator(bool) { return DeviceType::CUDA; } }
struct Guard : impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device dev() const { return Device(DeviceType::CUDA, 0); }
  Device exchangeDevice(Device) const override { return dev(); }
  Device getDevice() const override { return dev(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return Stream(Stream::DEFAULT, dev()); }
  Stream getNewStream(Device, int) const override { return Stream(Stream::DEFAULT, dev()); }
  Stream exchangeStream(Stream s) const override { return s; }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
};
static Guard guard;
extern "C" void set_guard() { impl::device_guard_impl_registry[(size_t)DeviceType::CUDA].store(&guard); }
