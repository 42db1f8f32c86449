namespace Sama.Functional

open System.Runtime.InteropServices

/// How soon a thread runs once it wakes. The thread of MPI works for microseconds and sleeps; while a backward pass has the core,
/// Linux since 6.6 lets it wait for the end of a slice of some milliseconds, each time. A thread of short slices is let in
/// front (since 6.12): its share of the processor stays the same, and no privilege is needed.
module internal Promptness =

    [<DllImport("libc", EntryPoint = "syscall")>]
    extern int64 private call(int64 number, int64 thread, nativeint attributes, int64 size, int64 flags)

    [<DllImport("libc", EntryPoint = "prctl")>]
    extern int private control(int option, int64 value, int64 a, int64 b, int64 c)

    // a slice, and by how much a sleep may be longer: nanoseconds
    let private slice, slack = 100_000L, 1_000L
    // PR_SET_TIMERSLACK
    let private setSlack = 29
    // the first version of the kernel's struct sched_attr, and where the slice is in it
    let private size, sliceAt = 48, 24

    /// sched_getattr and sched_setattr
    let private numbers =
        match RuntimeInformation.ProcessArchitecture with
        | Architecture.X64 -> Some(struct (315L, 314L))
        | Architecture.Arm64 -> Some(struct (275L, 274L))
        | _ -> None

    let private attributes (work: nativeint -> struct (int64 * int64) -> 'result) (otherwise: 'result) : 'result =
        let at = Marshal.AllocHGlobal size

        try
            match numbers with
            | Some(struct (get, _) as numbers) when call (get, 0L, at, int64 size, 0L) = 0L -> work at numbers
            | _ -> otherwise
        finally
            Marshal.FreeHGlobal at

    /// This thread's slice in nanoseconds; 0 where the kernel does not tell.
    let current () : int64 =
        attributes (fun at _ -> Marshal.ReadInt64(at, sliceAt)) 0L

    /// Short slices and punctual sleeps for this thread; false where the kernel has none.
    let ask () : bool =
        control (setSlack, slack, 0L, 0L, 0L) |> ignore

        attributes
            (fun at (struct (_, set)) ->
                Marshal.WriteInt64(at, sliceAt, slice)
                call (set, 0L, at, 0L, 0L) = 0L)
            false
