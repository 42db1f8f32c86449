namespace Sama;

/// <summary>The native library, libtorch.</summary>
public static class Native
{
    /// <summary>Settings that must be made before libtorch loads, then libtorch itself: call it first in a program; a
    /// second call does nothing.</summary>
    /// <remarks>Searched in this order: the folder that <c>SAMA_LIBTORCH</c> names; the CUDA package, then the CPU
    /// package, beside the application; the same two in NuGet's cache; an installed PyTorch.
    /// <c>SAMA_KEEP_ALLOCATOR=1</c> leaves glibc's allocator alone.</remarks>
    /// <exception cref="FileNotFoundException">The folder named holds no libtorch.</exception>
    /// <exception cref="DllNotFoundException">No libtorch at all, or one that does not load: it quotes the loader and
    /// says what to do.</exception>
    public static void Initialize() => F.Native.initialize();

    /// <summary><see cref="Initialize"/> with the libtorch of that folder, whatever <c>SAMA_LIBTORCH</c> says.</summary>
    /// <param name="folder">A folder of libtorch's libraries; of an installed PyTorch, torch/lib.</param>
    /// <exception cref="FileNotFoundException">The folder holds no libtorch.</exception>
    /// <exception cref="InvalidOperationException">Another libtorch was loaded before.</exception>
    public static void InitializeFrom(string folder)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        F.Native.initializeFrom(folder);
    }

    /// <summary>What was loaded, from where, its version and devices; it loads libtorch first if nothing has yet.</summary>
    /// <returns>The description; its text has one line a fact.</returns>
    public static NativeDescription Describe() => F.Native.describe();

    /// <summary>The device of a name, as options have it.</summary>
    /// <param name="name">cpu, cuda, which is cuda:0, or cuda:N.</param>
    /// <returns>The device.</returns>
    /// <exception cref="ArgumentException">Another name, or a device that this libtorch does not have.</exception>
    public static TorchSharp.torch.Device Device(string name) => F.Native.device(name);
}
