namespace Sama

open System.Collections.Generic

/// A device that tensors can live on.
[<NoComparison>]
type DeviceDescription =
    {
        /// "cpu" or "cuda:0"
        Device: string
        /// as its maker names it
        Name: string
        /// total memory in bytes
        Memory: int64
    }

/// The native library of this process: what was loaded, from where, and the devices it offers.
[<NoComparison>]
type NativeDescription =
    {
        /// version that libtorch itself reports; "unknown" if it does not
        Version: string
        /// the version that TorchSharp was built for
        BuiltFor: string
        /// how libtorch was found
        Origin: string
        /// its folder
        Folder: string
        /// the libraries of libtorch, CUDA and TorchSharp that are in memory, with their paths
        Libraries: IReadOnlyList<string>
        /// the processor, then CUDA devices
        Devices: IReadOnlyList<DeviceDescription>
        /// null if the versions match; else what differs and what is known to work
        Mismatch: string
    }

    /// One line a fact.
    override this.ToString() =
        let gigabytes (bytes: int64) = $"{float bytes / 1e9:F1} GB"

        let lines =
            [ $"libtorch {this.Version}, {this.Origin}: {this.Folder}"
              if not (isNull this.Mismatch) then
                  this.Mismatch
              for device in this.Devices do
                  $"{device.Device}: {device.Name}, {gigabytes device.Memory}"
              yield! this.Libraries ]

        String.concat "\n" lines

namespace Sama.Functional

open System
open System.IO
open System.Runtime.InteropServices
open System.Text
open Sama

/// Names and memory of devices, of which TorchSharp knows only the number.
module internal NativeDevices =

    [<DllImport("libcuda.so.1")>]
    extern int private cuInit(uint32 flags)

    [<DllImport("libcuda.so.1")>]
    extern int private cuDeviceGet(int& device, int ordinal)

    [<DllImport("libcuda.so.1")>]
    extern int private cuDeviceGetName(byte[] name, int length, int device)

    [<DllImport("libcuda.so.1")>]
    extern int private cuDeviceTotalMem_v2(unativeint& bytes, int device)

    /// By CUDA's driver, which counts devices as libtorch does.
    let cuda (ordinal: int) : DeviceDescription =
        let check what code =
            if code <> 0 then
                invalidOp $"CUDA's driver answers {what} of device {ordinal} with error {code}"

        let mutable device = 0
        let mutable memory = 0un
        let name = Array.zeroCreate<byte> 256
        check "cuInit" (cuInit 0u)
        check "cuDeviceGet" (cuDeviceGet (&device, ordinal))
        check "cuDeviceGetName" (cuDeviceGetName (name, name.Length, device))
        check "cuDeviceTotalMem" (cuDeviceTotalMem_v2 (&memory, device))

        { Device = $"cuda:{ordinal}"
          Name = Encoding.UTF8.GetString(name).TrimEnd '\000'
          Memory = int64 memory }

    /// The processor and the memory that this process may use.
    let processor () =
        let model =
            if File.Exists "/proc/cpuinfo" then
                File.ReadLines "/proc/cpuinfo" |> Seq.tryFind _.StartsWith("model name")
            else
                None

        { Device = "cpu"
          Name =
            match model with
            | Some line -> line.Substring(line.IndexOf ':' + 1).Trim()
            | None -> RuntimeInformation.ProcessArchitecture.ToString()
          Memory = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes }
