import java.io.*;
import java.net.*;
import java.nio.file.*;
import java.util.stream.*;
public class Main {
    public static void main(String[] args) throws Exception {
        if (args.length == 0) compute();
        else if (args[0].equals("process")) start();
        else talk();
    }
    static void compute() throws Exception {
        Path file = Files.writeString(Path.of("out.txt"), "written");
        int sum = IntStream.range(0, 8).parallel().map(n -> n * n).sum();
        Thread thread = new Thread(() -> System.out.print(Files.exists(file) + " "));
        thread.start();
        thread.join();
        System.gc();
        System.out.println(sum);
    }
    static void start() throws Exception {
        Process echo = new ProcessBuilder("echo", "from a process").start();
        System.out.print(new String(echo.getInputStream().readAllBytes()));
    }
    static void talk() throws Exception {
        try (ServerSocket server = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            new Thread(() -> {
                try (Socket one = server.accept()) { one.getOutputStream().write("over lo\n".getBytes()); }
                catch (IOException error) { error.printStackTrace(); }
            }).start();
            Socket one = new Socket(server.getInetAddress(), server.getLocalPort());
            System.out.print(new String(one.getInputStream().readAllBytes()));
        }
    }
}
